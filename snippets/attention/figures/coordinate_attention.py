from cnn_site.figures import Figure, around, conv, data, fan, gate, op, pool, stack

rows = stack(data("8 × H × 1"), gate("Conv 1×1, 64", "Sigmoid"))
columns = stack(data("8 × 1 × W"), gate("Conv 1×1, 64", "Sigmoid"))
figure = Figure(
    "coordinate-attention",
    "Coordinate attention",
    "The input x, 64 channels, goes straight to a product. Beside it, two means are taken: over the width, one number "
    "per channel and row, and over the height, one per channel and column. Both are concatenated and pass one 1×1 "
    "convolution to 8 channels with batch normalisation and hard swish. Split again, each part passes a 1×1 convolution "
    "to 64 channels and a sigmoid. The product of the row gates and the column gates multiplies x.",
    stack(
        data("x, 64 × H × W"),
        around(
            None,
            stack(
                fan(
                    stack(pool("Mean over W"), data("64 × H × 1")),
                    stack(pool("Mean over H"), data("64 × 1 × W")),
                    merge=op("Concatenate"),
                ),
                "64 × (H + W) × 1",
                conv("Conv 1×1, 8", "BN · Hardswish"),
                op("Split"),
                fan(rows, columns, merge=op("×")),
            ),
            "×",
        ),
        data("scaled, 64 × H × W"),
        same=False,
    ),
)


def module():  # what the figure is checked against
    from cnn_techniques.attention import CoordinateAttention

    return CoordinateAttention(64)
