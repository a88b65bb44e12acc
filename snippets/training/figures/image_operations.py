from cnn_site.figures.pictures import pictures_svg


def cells():
    """A cat, changed by each operation at a magnitude that shows."""
    import skimage.data
    import torch
    from torch.nn import functional as F

    from cnn_techniques.training import operation_table

    photo = torch.tensor(skimage.data.chelsea()).permute(2, 0, 1)[:, :, 60:360]
    photo = F.avg_pool2d(photo.float(), 2).round().to(torch.uint8)  # (3, 150, 150)
    table = operation_table(2, 0.3, [40.0, 40.0], 30.0, 0.9, 2)
    shown = {"Solarize": 0.5}
    for name, operation in table.items():
        magnitude = shown.get(name, operation.magnitude(1))
        magnitude = abs(magnitude) if operation.signed else magnitude
        label = name if magnitude is None else f"{name} {magnitude:.2g}"
        yield label, operation(photo, magnitude)


svg = pictures_svg(
    "image-operations",
    "A cat, changed by each of the fifteen operations",
    "Fifteen pictures of one cat: as it is; sheared and moved to the side and down, and rotated, with black where "
    "nothing was; brighter, with more colour, more contrast, sharper; with four levels per channel; with the light "
    "half inverted; with channels stretched and equalised; as a negative.",
    list(cells()),
    columns=3,
    quality=30,
)
