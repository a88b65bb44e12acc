from cnn_site.figures import Figure, chain, conv, data, grid, link, loss
from cnn_site.figures.scenes import found_in_scenes

image, positions, queries = data("image"), data("positions"), data("100 queries")
backbone, projection = conv("ResNet", "2,048 ch · 1/32"), conv("1×1", "256 ch")
encoder = conv("Encoder", "6 layers")
decoder = conv("Decoder", "6 layers")
heads = conv("Class and\nbox heads", "the same for\nevery query")
found, objects = data("100 boxes"), data("objects")
matching = loss("Matching,\nloss")
overview = Figure(
    "detr",
    "DETR on ResNet-50",
    "The map of a ResNet is projected to 256 channels; its cells, with their positions, "
    "go through an encoder of six layers. A decoder of six layers reads them with 100 "
    "learned queries. Two heads make a class and a box of each query; in training these "
    "are matched one to one with the objects of the image.",
    grid(
        [None, objects, matching],
        [None, None, found],
        [None, None, heads],
        [positions, encoder, decoder],
        [None, projection, queries],
        [None, backbone],
        [None, image],
        hgap=26,
    ),
    [
        *chain(image, backbone, projection, encoder, ports="tb"),
        link(positions, encoder, "rl"),
        link(encoder, decoder, "rl"),
        link(queries, decoder, "tb"),
        *chain(decoder, heads, found, matching, ports="tb"),
        link(objects, matching, "rl"),
    ],
)
figure = overview
figures = found_in_scenes("detection/detr", "DETR", by_heart=True)
