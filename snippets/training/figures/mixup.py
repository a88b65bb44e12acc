from cnn_lab.data import digits
from cnn_site.figures.pictures import pictures_svg


def blends():
    """A 0 and a 1, blended by the technique itself: (share of the 0 in picture and label, picture)."""
    import torch

    from cnn_techniques.training import mixup_batch

    images, names = digits("train")
    pair = images[[int((names == digit).nonzero()[0]) for digit in (0, 1)]]
    for share in (1.0, 0.75, 0.5, 0.25, 0.0):
        x, y = mixup_batch(
            pair, torch.eye(2), torch.tensor(share), torch.tensor([1, 0])
        )
        yield f"λ = {y[0, 0].item():g}", 1 - x[0, 0].numpy()


svg = pictures_svg(
    "mixup",
    "Two digits and three blends of them",
    "A handwritten 0 fades into a 1 in five steps. Its label fades with it: the share of the 0 is 1, "
    "three quarters, one half, one quarter and 0, the rest is that of the 1.",
    list(blends()),
    columns=5,
)
