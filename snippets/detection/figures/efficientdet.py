from cnn_site.figures import Figure, conv, data, stack

figure = Figure(
    "efficientdet",
    "EfficientDet and BiFPN",
    "TODO one or two sentences that replace the picture.",
    stack(data("x, C × H × W"), conv("Conv 1×1, 64"), data("y, C × H × W")),  # TODO
)

# TODO a block diagram is checked against its module, once `module` makes it (docs: .github/CONTRIBUTING.md):
# def module():
#     from cnn_techniques.detection import EfficientDetAndBiFPN
#
#     return EfficientDetAndBiFPN(64)
