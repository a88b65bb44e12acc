"""LeNet-5: filters shared over the image, sub-sampled twice, learnt end to end.

Source: LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proc.
IEEE 86(11), 1998, section II-B, table I, equations 6, 7 and 9, appendix A. Both the
paper's network and the one that is called LeNet-5 today.
Legend: N images, C channels, H x W pixels, K classes.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
class LeNet5(nn.Module):
    """What is called LeNet-5 today: ReLU, max pooling, dense convolutions, logits.

    Args:
        in_channels: C, channels of the image.
        num_classes: K, number of logits.

    Shape: (N, C, 32, 32) -> (N, K). Pad MNIST's 28 pixels by 2 on every side.
    Parameters: 61,706 with C = 1 and K = 10.
    Raises: ValueError for a number below 1, or an input of another shape.
    """

    def __init__(self, in_channels: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        if in_channels < 1 or num_classes < 1:
            raise ValueError(
                f"widths must be at least 1, got {in_channels=}, {num_classes=}"
            )
        self.in_channels = in_channels
        # --8<-- [start:layers]
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 6, 5),  # (N, 6, 28, 28)
            nn.ReLU(),
            nn.MaxPool2d(2),  # (N, 6, 14, 14)
            nn.Conv2d(6, 16, 5),  # (N, 16, 10, 10)
            nn.ReLU(),
            nn.MaxPool2d(2),  # (N, 16, 5, 5)
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),  # (N, 400)
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, num_classes),
        )
        # --8<-- [end:layers]

    def forward(self, x: Tensor) -> Tensor:
        _lenet5_check(x, self.in_channels)
        logits: Tensor = self.classifier(self.features(x))
        return logits  # (N, K)


def _lenet5_check(x: Tensor, channels: int) -> None:
    if x.ndim != 4 or x.shape[1:] != (channels, 32, 32):
        told = f"expected (N, {channels}, 32, 32), got {tuple(x.shape)}"
        raise ValueError(f"{told}: pad or resize the images")


# Table I: the maps of S2 that each of the 16 maps of C3 sees: three neighbours in the
# ring of six, four neighbours, four with a gap, all.
_LENET5_ROWS = """
012 123 234 345 045 015
0123 1234 2345 0345 0145 0125
0134 1245 0235
012345
"""
LENET5_TABLE = [[int(m) for m in row] for row in _LENET5_ROWS.split()]

# Targets of F6: each digit on 7 x 12 pixels, +1 where there is ink, -1 elsewhere.
# Drawn anew: the idea is the paper's (figure 3), the pixels are not.
_LENET5_DRAWINGS = """
..###..  ...#...  .#####.  .#####.  .....#.  #######  ..####.  #######  .#####.  .#####.
.#...#.  ..##...  #.....#  #.....#  ....##.  #......  .#.....  ......#  #.....#  #.....#
#.....#  .#.#...  ......#  ......#  ...#.#.  #......  #......  .....#.  #.....#  #.....#
#.....#  ...#...  ......#  ......#  ..#..#.  #......  #......  .....#.  #.....#  #.....#
#.....#  ...#...  .....#.  .....#.  .#...#.  ######.  #.####.  ....#..  .#...#.  #.....#
#.....#  ...#...  ....#..  ..###..  #....#.  ......#  ##....#  ....#..  ..###..  #....##
#.....#  ...#...  ...#...  .....#.  #....#.  ......#  #.....#  ...#...  .#...#.  .####.#
#.....#  ...#...  ..#....  ......#  #######  ......#  #.....#  ...#...  #.....#  ......#
#.....#  ...#...  .#.....  ......#  .....#.  ......#  #.....#  ..#....  #.....#  ......#
#.....#  ...#...  #......  ......#  .....#.  ......#  #.....#  ..#....  #.....#  ......#
.#...#.  ...#...  #......  #.....#  .....#.  #.....#  .#...#.  ..#....  #.....#  .....#.
..###..  .#####.  #######  .#####.  .....#.  .#####.  ..###..  ..#....  .#####.  .####..
"""


def lenet5_codes() -> Tensor:
    """The drawings of 0..9 as rows of +1 and -1: (10, 84)."""
    lines = [line.split() for line in _LENET5_DRAWINGS.strip().splitlines()]
    ink = [
        [pixel == "#" for line in lines for pixel in line[digit]] for digit in range(10)
    ]
    return torch.tensor(ink).float() * 2 - 1


def _lenet5_squash(a: Tensor) -> Tensor:
    """Equation 6: a scaled tanh, f(1) = 1 and f(-1) = -1 before it saturates."""
    return 1.7159 * torch.tanh(2 / 3 * a)


def _lenet5_init(parameter: Tensor, fan_in: int) -> None:
    nn.init.uniform_(parameter, -2.4 / fan_in, 2.4 / fan_in)


# --8<-- [start:subsampling]
class LeNet5Subsampling(nn.Module):
    """S2 and S4: the sum of 2 x 2 pixels, times a weight, plus a bias, one a map.

    Shape: (N, C, H, W) -> (N, C, H / 2, W / 2).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))
        _lenet5_init(self.weight, fan_in=4)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * F.avg_pool2d(x, 2, divisor_override=1) + self.bias


# --8<-- [end:subsampling]


# --8<-- [start:partial]
class LeNet5PartialConv2d(nn.Module):
    """C3: each output map sees only the input maps that its row of the table names."""

    def __init__(self, table: list[list[int]], kernel_size: int) -> None:
        super().__init__()
        self.table = table
        self.maps = nn.ModuleList(nn.Conv2d(len(row), 1, kernel_size) for row in table)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [conv(x[:, row]) for conv, row in zip(self.maps, self.table, strict=True)],
            dim=1,
        )


# --8<-- [end:partial]


class LeNet5Paper(nn.Module):
    """The paper's network; it gives the distance from each class: the smallest wins.

    Shape: (N, 1, 32, 32) -> penalties (N, 10), at least 0. The paper scales pixels to
    -0.1 (background) and 1.175 (ink).
    Parameters: 60,000, and the 840 fixed numbers of `codes`.
    Raises: ValueError for an input of another shape.
    """

    codes: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(1, 6, 5)
        self.s2 = LeNet5Subsampling(6)
        self.c3 = LeNet5PartialConv2d(LENET5_TABLE, 5)
        self.s4 = LeNet5Subsampling(16)
        self.c5 = nn.Conv2d(16, 120, 5)
        self.f6 = nn.Linear(120, 84)
        self.register_buffer("codes", lenet5_codes())
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                _lenet5_init(layer.weight, fan_in=layer.weight[0].numel())
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    # --8<-- [start:forward]
    def forward(self, x: Tensor) -> Tensor:
        _lenet5_check(x, 1)
        x = _lenet5_squash(self.s2(_lenet5_squash(self.c1(x))))  # (N, 6, 14, 14)
        x = _lenet5_squash(self.s4(_lenet5_squash(self.c3(x))))  # (N, 16, 5, 5)
        x = _lenet5_squash(self.c5(x)).flatten(1)  # (N, 120)
        x = _lenet5_squash(self.f6(x))  # (N, 84)
        return (x[:, None, :] - self.codes).square().sum(dim=2)  # (N, 10)

    # --8<-- [end:forward]


def lenet5_map_loss(penalties: Tensor, targets: Tensor, rubbish: float = 1.0) -> Tensor:
    """Equation 9: a small penalty for the right class, large ones for the others.

    Args:
        penalties: (N, 10), from LeNet5Paper.
        targets: (N,), the right classes, integers.
        rubbish: j, the penalty of a class "none of these"; what is further away than j
            hardly counts any more.

    Raises: ValueError for another shape of the penalties, for targets that are no
    integers, and for a negative j.
    """
    if penalties.ndim != 2 or targets.is_floating_point() or rubbish < 0:
        raise ValueError(
            "need penalties (N, K), integer targets and rubbish >= 0, "
            f"got {tuple(penalties.shape)}, {targets.dtype}, {rubbish=}"
        )
    none = torch.full_like(penalties[:, :1], rubbish)
    return F.cross_entropy(-torch.cat([penalties, none], dim=1), targets.long())


# --8<-- [end:module]
