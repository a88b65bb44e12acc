from cnn_site.figures import Figure, act, chain, conv, data, grid, link, op

network, images = conv("Network", "PyTorch"), data("images")
trace, file = op("torch.onnx.export"), data("model.onnx")
run = act("ONNX Runtime", "C++, C#, Java, JavaScript")
ours, theirs, check = data("scores"), data("scores"), op("=?")
figure = Figure(
    "onnx-export",
    "From a network to a file, and the check",
    "A network in PyTorch and example images go into torch.onnx.export, which writes a file; "
    "a runtime in any language runs it. The same images through the network and through the "
    "file give scores that are compared.",
    grid(
        [images, network],
        [None, trace],
        [None, file],
        [None, run],
        [ours, theirs],
        [check, None],
        hgap=50,
    ),
    [
        *chain(network, trace, file, run, theirs),
        link(images, network, "rl"),
        link(images, ours, label="network"),
        link(ours, check),
        link(theirs, check, "br"),
    ],
)
