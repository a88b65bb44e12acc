from cnn_site.figures.pictures import pictures_svg


def cells(count):
    """One cat, as often augmented, each over what was drawn."""
    import skimage.data
    import torch
    from torch.nn import functional as F

    from cnn_techniques.training import RandAugment

    photo = torch.tensor(skimage.data.chelsea()).permute(2, 0, 1)  # (3, 300, 451)
    photo = F.interpolate(photo[None].float(), (200, 300), mode="area")[0]
    photo = photo.round().to(torch.uint8)
    augment = RandAugment(n=2, m=9)
    for seed in range(count):
        torch.manual_seed(seed)
        changed = augment(photo)
        torch.manual_seed(seed)
        drawn = augment.draw(*photo.shape[-2:])
        yield ", ".join(name for name, _ in drawn) or "none", changed


svg = pictures_svg(
    "randaugment",
    "A cat, augmented eight times by RandAugment",
    "Eight pictures of one cat, each changed by two operations of medium strength; the names are written below.",
    list(cells(8)),
    columns=2,
    quality=40,
)
