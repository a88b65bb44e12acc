from cnn_site.figures import Figure, act, chain, conv, data, grid, link, loss

images = data("source and target")
network = conv("Network", "one for both")
labels, reverse = data("labels"), act("reverse gradient", "times −λ")
classes, domains = conv("Classifier", "of classes"), conv("Classifier", "of domains")
of_classes = loss("Cross-entropy", "source alone")
of_domains = loss("Cross-entropy", "source or target")
figure = Figure(
    "domain-adaptation",
    "Domain-adversarial training",
    "Source and target images go through one network. The features of the source go to a "
    "classifier of classes and its cross-entropy with the labels. The features of both go "
    "through a layer that reverses the gradient to a classifier of domains and its "
    "cross-entropy.",
    grid(
        [images, None],
        [network, None],
        [classes, reverse],
        [of_classes, domains],
        [labels, of_domains],
        hgap=30,
    ),
    chain(images, network, classes, of_classes)
    + chain(reverse, domains, of_domains)
    + [
        link(network, reverse, "rt"),
        link(labels, of_classes, "tb"),
    ],
)
