from cnn_site.figures.pictures import pictures_svg


def cells(count):
    """One cat, as often augmented, each over what was drawn."""
    import skimage.data
    import torch
    from torch.nn import functional as F

    from cnn_techniques.training import TrivialAugment

    photo = torch.tensor(skimage.data.chelsea()).permute(2, 0, 1)  # (3, 300, 451)
    photo = F.interpolate(photo[None].float(), (200, 300), mode="area")[0]
    photo = photo.round().to(torch.uint8)
    augment = TrivialAugment()
    for seed in range(count):
        torch.manual_seed(seed)
        changed = augment(photo)
        torch.manual_seed(seed)
        name, magnitude = augment.draw()
        yield name if magnitude is None else f"{name} {magnitude:.2g}", changed


svg = pictures_svg(
    "trivialaugment",
    "A cat, augmented twelve times by TrivialAugment",
    "Twelve pictures of one cat, each changed by one operation, from a slight loss of sharpness to a shear that leaves black in a third of it.",
    list(cells(12)),
    columns=3,
    quality=40,
)
