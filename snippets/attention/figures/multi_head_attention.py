from cnn_site.figures import Figure, chain, conv, data, gate, grid, link, op

query = data("query", "L × 512")
key, value = data("key", "S × 512"), data("value", "S × 512")
maps = [conv("Linear\n512→512", w=92) for _ in range(3)]
scores = op("Matrix product", "divided by √64")
weights, mean = gate("Softmax"), op("Matrix product")
out, joined = conv("Linear 512→512"), data("L × 512")

figure = Figure(
    "multi-head-attention",
    "Multi-head attention",
    "Query, key and value go through a linear map each and are split into 8 heads of 64 entries. In each head the "
    "product of queries and keys, divided by the root of 64, becomes weights by a softmax; the product of the weights "
    "with the values is the head's result. The 8 results, joined to 512 entries, go through a last linear map.",
    grid(
        [query, key, value],
        maps,
        [scores, None, None],
        [weights, None, None],
        [None, mean, None],
        [None, out, None],
        [None, joined, None],
        hgap=10,
        same=False,
    ),
    [
        *(link(a, b) for a, b in zip((query, key, value), maps, strict=True)),
        link(maps[0], scores, "bt"),
        link(maps[1], scores, "br"),
        *chain(scores, weights, label="8 × L × S"),
        link(weights, mean, "bl"),
        link(maps[2], mean, "br"),
        *chain(mean, out, label="8 × L × 64"),
        *chain(out, joined),
    ],
)
