from cnn_site.figures import Figure, chain, conv, data, grid, link
from cnn_site.figures.scenes import found_in_scenes

given = {k: data(f"P{k} in", f"1/{2**k}", w=74) for k in (3, 4, 5, 6, 7)}
node = {k: conv(f"P{k} td", "fuse, conv", w=84) for k in (4, 5, 6)}
node[3] = conv("P3 node", "fuse, conv", w=84)
out = {k: conv(f"P{k} out", "fuse, conv", w=84) for k in (4, 5, 6, 7)}
out[3] = data("P3 out", w=84)
overview = Figure(
    "efficientdet",
    "One BiFPN layer on P3 to P7",
    "On the left the levels that come in. The middle column goes from the coarsest level "
    "to the finest: each node fuses its level with the coarser result, upsampled by two. "
    "The right column goes back: each node fuses its level as it came in, the node of the "
    "middle column, where there is one, and the finer result, max-pooled by two.",
    grid(
        [given[7], None, out[7]],
        *[
            row
            for k in (6, 5, 4)
            for row in ([given[k], node[k], None], [None, None, out[k]])
        ],
        [given[3], node[3], out[3]],
        hgap=40,
        vgap=20,
    ),
    [
        link(given[7], out[7], "rl"),
        link(given[7], node[6], "rt"),
        *chain(node[6], node[5], node[4], node[3], ports="bt"),
        *[link(given[k], node[k], "rl") for k in (6, 5, 4, 3)],
        *[link(given[k], out[k], "bl") for k in (6, 5, 4)],
        *[link(node[k], out[k], "rl") for k in (6, 5, 4, 3)],
        *chain(out[3], out[4], out[5], out[6], out[7], ports="tb"),
    ],
)
figure = overview
figures = found_in_scenes("detection/efficientdet", "EfficientDet")
