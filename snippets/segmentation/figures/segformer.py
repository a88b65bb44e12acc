from cnn_site.figures import Figure, chain, conv, data, gate, grid, link
from cnn_site.figures.scenes import labelled_scenes

WIDTHS = (32, 64, 160, 256)
stages = [
    gate(f"Stage {i + 1}", f"{width} ch · 1/{4 << i}", w=100)
    for i, width in enumerate(WIDTHS)
]
linear = [
    conv(f"Linear, {1 << i}×" if i else "Linear", f"{width} → 256", w=92)
    for i, width in enumerate(WIDTHS)
]
image = data("image", w=100)
fuse = conv("Concatenate,\nlinear, BN,\nReLU", "1024 → 256", rows=4, w=92)
classify = conv("Linear", "256 → 150", w=92)
scores = data("scores", "1/4", w=92)
figure = Figure(
    "segformer",
    "SegFormer-B0",
    "Four stages of the encoder make feature maps of 32, 64, 160 and 256 channels at 1/4, 1/8, 1/16 and 1/32 of the "
    "image. A linear layer for each makes 256 channels, enlarged to 1/4 of the image. They are concatenated; two more "
    "linear layers give the scores of 150 classes at 1/4 of the image.",
    grid(
        [image],
        *[
            [stages[i], linear[i], fuse] if i == 0 else [stages[i], linear[i]]
            for i in range(4)
        ],
        [None, None, classify],
        [None, None, scores],
        hgap=24,
    ),
    chain(image, *stages, ports="bt")
    + [link(a, b, "rl") for a, b in zip(stages, linear, strict=True)]
    + [link(b, fuse, "rl") for b in linear]
    + chain(fuse, classify, scores, ports="bt"),
)
figures = labelled_scenes("segmentation/segformer", "SegFormer")
