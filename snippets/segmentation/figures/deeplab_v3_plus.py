from cnn_site.figures import Figure, chain, conv, data, frame, grid, link, op, pool
from cnn_site.figures.scenes import labelled_scenes

image = data("image", "H × W", w=100)
early = conv("stage 1", "256 ch · 1/4", w=100)
last = conv("stages 2 to 4", "2048 ch · 1/16", w=100)
low = conv("1×1", "48 ch", w=57)
scores = data("scores", "K × H × W", w=100)
head = conv("1×1", "K ch · 1/4", w=100)
joined = conv("separable 3×3", "256 ch · 1/4", w=100)
both = op("concat", "304 ch · 1/4", w=100)
after = conv("separable 3×3", "256 ch · 1/16", w=100)
views = [conv("1×1", "256 ch", w=57)]
views += [conv("3×3", f"rate {r}", w=57) for r in (6, 12, 18)]
views += [pool("mean", "image", w=57)]
project = conv("concat", "1×1, 256", w=57)
sides = grid(
    [image, None, scores],
    [None, None, head],
    [None, None, joined],
    [early, low, both],
    [last, None, after],
    hgap=32,
    vgap=24,
)
pyramid = grid(views, [None, None, project], hgap=4, vgap=30)
figure = Figure(
    "deeplab-v3-plus",
    "DeepLab v3+ on a ResNet",
    "On the left a ResNet: its first stage at a quarter of the image's size, its last "
    "at a sixteenth. Below, five views of the last feature map: a 1×1 convolution, "
    "separable 3×3 convolutions of rates 6, 12 and 18, and the mean of the image. They "
    "are joined and, on the right, enlarged, joined with 48 channels of the first "
    "stage, convolved and scored.",
    grid(
        [frame(sides, "backbone and decoder")],
        [frame(pyramid, "")],
        vgap=22,
        same=False,
    ),
    chain(image, early, last)
    + [link(early, low, "rl"), link(low, both, "rl")]
    + [link(last, view) for view in views]
    + [link(view, project) for view in views]
    + [link(project, after, "rr"), link(after, both, "tb", "4×")]
    + chain(both, joined, head, ports="tb")
    + [link(head, scores, "tb", "4×")],
)
figures = labelled_scenes("segmentation/deeplab-v3-plus", "DeepLab v3+")
