from cnn_site.figures import Figure, around, conv, data, gate, norm, stack

figure = Figure(
    "vision-transformer",
    "Block of a vision transformer",
    "A layer norm and self-attention, whose result is added to the input; then a layer norm and two linear maps, 768 "
    "to 3072 to 768 with a GELU between them, whose result is added again.",
    stack(
        data("z, (1 + 196) × 768"),
        around(stack(norm("LN"), gate("Self-attention"))),
        around(
            stack(norm("LN"), conv("Linear 768→3072", "GELU"), conv("Linear 3072→768"))
        ),
        data("(1 + 196) × 768"),
        same=False,
    ),
)


def module():  # what the figure is checked against
    from cnn_techniques.modern import EncoderBlock

    return EncoderBlock(768, 12, 3072)


def leaves():  # one box each
    return (type(module().self_attention),)
