from cnn_lab.data import digits
from cnn_site.figures.pictures import pictures_svg


def blends():
    """A 3 and an 8, blended by the technique itself: (label under the picture, picture)."""
    import torch

    from cnn_techniques.training import mixup_batch

    images, names = digits("train")
    pair = images[[int((names == digit).nonzero()[0]) for digit in (3, 8)]]
    for share in (1.0, 0.75, 0.5, 0.25, 0.0):
        x, y = mixup_batch(pair, torch.eye(2), torch.tensor(share), torch.tensor([1, 0]))
        label = " + ".join(
            f"{part:g} · {digit}" for part, digit in zip(y[0].tolist(), "38", strict=True) if part
        )
        yield label, 1 - x[0, 0].numpy()


svg = pictures_svg(
    "mixup",
    "Two digits and three blends of them",
    "A handwritten 3 fades into an 8 in five steps. Under each picture its label: from one part 3, "
    "through half 3 and half 8, to one part 8.",
    list(blends()),
    columns=5,
)
