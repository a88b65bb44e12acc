from cnn_site.figures import Figure, conv, data, grid, link
from cnn_site.figures.scenes import found_in_scenes

level = data("P3 to P7", "each alone")
classes = conv("Class tower", "4 × conv 3×3,\ngroup norm, ReLU")
boxes = conv("Box tower", "4 × conv 3×3,\ngroup norm, ReLU")
logits = data("class", "K logits")
ltrb = data("l, t, r, b", "≥ 0, in strides")
centerness = data("centre-ness", "1 logit")
overview = Figure(
    "fcos",
    "The two heads of FCOS",
    "Each level of the feature pyramid, P3 to P7, is read by the same two towers of four "
    "convolutions with group norm and ReLU. The class tower ends in K logits per cell. "
    "The box tower ends in the four distances l, t, r, b and in the centre-ness.",
    grid(
        [None, classes, logits],
        [level],
        [None, boxes, ltrb],
        [None, None, centerness],
        hgap=30,
    ),
    [
        link(level, classes, "rl"),
        link(level, boxes, "rl"),
        link(classes, logits, "rl"),
        link(boxes, ltrb, "rl"),
        link(boxes, centerness, "rl"),
    ],
)
figure = overview
figures = found_in_scenes("detection/fcos", "FCOS")
