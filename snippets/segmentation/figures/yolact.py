import torch

from cnn_site.figures import Figure, chain, conv, data, grid, link, op
from cnn_site.figures.scenes import found_in_scenes

levels = data("P3 to P7", "pyramid")
p3 = data("P3", "256 ch · 1/8")
proto = conv("Protonet", "3 × conv 3×3,\n2×, conv 3×3,\nconv 1×1")
head = conv("Head", "conv 3×3, then\nthree conv 3×3")
prototypes = data("Prototypes", "32 ch · 1/4")
detections = data("Detections", "class, box,\n32 coefficients")
nms = op("Fast NMS", w=80)
mixed = op("Σ")
masks = data("Masks", "σ, then cropped\nwith the boxes")
overview = Figure(
    "yolact",
    "YOLACT",
    "P3 of the feature pyramid is read by the protonet, which gives 32 prototypes at a "
    "quarter of the image's height and width. All levels are read by one head, which "
    "gives each anchor a class, a box and 32 coefficients. After Fast NMS, each "
    "detection's mask is the sum of the prototypes with its coefficients.",
    grid(
        [p3, levels],
        [proto, head],
        [prototypes, detections],
        [mixed, nms],
        [masks, None],
        hgap=40,
        same=False,
    ),
    chain(p3, proto, prototypes, mixed, masks, ports="bt")
    + chain(levels, head, detections, nms, ports="bt")
    + [link(nms, mixed, "lr")],
)
figure = overview
figures = found_in_scenes("segmentation/yolact", "YOLACT")
