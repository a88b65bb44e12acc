from cnn_site.figures import Figure, chain, conv, data, grid, link
from cnn_site.figures.scenes import found_in_scenes

image = data("image", "1/1", w=104)
body = conv("ResNet-50", "C2 to C5 · 1/4 to 1/32", w=148)
pyramid = conv("Feature pyramid", "P2 to P6 · 256 ch", w=148)
branch = conv("Mask branch", "P2 to P5, added at 1/4", w=148)
features = data("Mask features", "256 × H/4 × W/4", w=148)
cells = conv("Head on S × S cells", "S = 40, 36, 24, 16, 12", w=148)
kernels = data("S² × K logits", "and S² kernels of 256", w=148)
product = conv("1×1 convolution", "with those kernels", w=148)
masks = data("masks", "one per kernel", w=148)
figure = Figure(
    "solo-v2",
    "SOLOv2",
    "A pyramid is read twice. The mask branch adds its levels up at a quarter of the "
    "image; the head reads each level as a grid of cells, and gives for every cell the "
    "logits of the classes and the numbers of one kernel. The kernels of sure cells, "
    "applied to the mask features, are the masks.",
    grid(
        [image, None],
        [body, None],
        [pyramid, cells],
        [branch, kernels],
        [features, None],
        [product, None],
        [masks, None],
        hgap=40,
        same=False,
    ),
    [
        *chain(image, body, pyramid, branch, features, product, masks),
        link(pyramid, cells, "rl"),
        link(cells, kernels, "bt"),
        link(kernels, product, "lr", "of sure cells"),
    ],
)
figures = found_in_scenes("segmentation/solo-v2", "SOLOv2")
