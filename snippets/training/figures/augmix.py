from cnn_site.figures.pictures import pictures_svg


def cells():
    """A cat, the ends of its three chains, their blend, and another blend."""
    import skimage.data
    import torch
    from torch.nn import functional as F

    from cnn_techniques.training import AugMix
    from cnn_techniques.training.augmix import AugMixDraw

    photo = torch.tensor(skimage.data.chelsea()).permute(2, 0, 1)  # (3, 300, 451)
    photo = F.interpolate(photo[None].float(), (200, 300), mode="area")[0]
    photo = photo.round().to(torch.uint8)
    augment = AugMix(severity=10)
    torch.manual_seed(215)
    draw = augment.draw(*photo.shape[-2:])
    m = float(draw.shares[0])
    yield f"image, {m:.2f}", photo
    for weight, chain in zip(draw.weights * draw.shares[1], draw.chains, strict=True):
        alone = AugMixDraw(torch.tensor([0.0, 1.0]), torch.ones(1), [chain])
        title = ", ".join(name for name, _ in chain)
        yield f"{title}, {weight:.2f}", augment.mix(photo, alone)
    yield "blend of these four", augment.mix(photo, draw)
    yield "another draw", augment(photo)


svg = pictures_svg(
    "augmix",
    "A cat, three chains of operations on it, and their blend",
    "Six pictures of one cat: as it is; after each of three chains of operations, whose names and shares are written below; the blend of these four; and a blend of another draw.",
    list(cells()),
    columns=2,
    quality=40,
)
