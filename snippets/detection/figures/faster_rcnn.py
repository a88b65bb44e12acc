from cnn_site.figures import Figure, chain, conv, data, grid, link
from cnn_site.figures.scenes import found_in_scenes

image = data("image", "1/1", w=104)
body = conv("ResNet-50", "C2 to C5 · 1/4 to 1/32", w=148)
pyramid = conv("Feature pyramid", "P2 to P6 · 256 ch", w=148)
rpn = conv("RPN head", "3×3, then 1×1", w=130)
proposals = data("1,000 proposals", "NMS at 0.7", w=130)
pool = conv("RoIAlign", "256 × 7 × 7 each", w=148)
mlp = conv("Two linear layers", "1024 features", w=148)
classes = data("K + 1 logits", w=130)
boxes = data("K + 1 boxes", w=130)
overview = Figure(
    "faster-rcnn",
    "Faster R-CNN on a feature pyramid",
    "The backbone's maps become five pyramid levels. A small head reads every level and "
    "gives an objectness and four offsets for each anchor; the best boxes that remain "
    "after suppression are the proposals. Of each, 7 × 7 positions of the level that "
    "suits its size are read, and two linear layers end in class logits and boxes.",
    grid(
        [image, None],
        [body, None],
        [pyramid, rpn],
        [pool, proposals],
        [mlp, classes],
        [None, boxes],
        hgap=44,
        same=False,
    ),
    [
        *chain(image, body, pyramid),
        link(pyramid, rpn, "rl"),
        link(rpn, proposals, "bt"),
        link(pyramid, pool, "bt", "P2–P5"),
        link(proposals, pool, "lr"),
        link(pool, mlp, "bt"),
        link(mlp, classes, "rl"),
        link(mlp, boxes, "bl"),
    ],
)
figure = overview
figures = found_in_scenes("detection/faster-rcnn", "Faster R-CNN")
