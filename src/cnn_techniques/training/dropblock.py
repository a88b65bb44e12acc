"""DropBlock: in training, square regions of every channel are set to zero.

Source: Ghiasi, Lin and Le, "DropBlock: A regularization method for convolutional
networks", NeurIPS 2018, arXiv:1810.12890, section 3, equation (1) and algorithm 1.
Legend: N images, C channels, H x W positions, b the side of a block (block_size),
gamma the probability that a position becomes the centre of a block.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
def drop_blocks(x: Tensor, centres: Tensor, block_size: int) -> Tensor:
    """Set to zero the block around each centre, and scale up what is left.

    Args:
        x: (N, C, H, W).
        centres: (N, C, H - b + 1, W - b + 1), 1 where a block has its centre, else 0.
            Position (0, 0) is the centre of the block in the upper left corner.
        block_size: b, odd.

    Shape: (N, C, H, W) -> (N, C, H, W).
    """
    # --8<-- [start:blocks]
    padded = F.pad(centres, [block_size - 1] * 4)  # a border that holds no centre
    mask = 1 - F.max_pool2d(padded, block_size, stride=1)  # (N, C, H, W)
    # --8<-- [end:blocks]
    # --8<-- [start:normalise]
    return x * mask * (mask.numel() / mask.sum().clamp(min=1))
    # --8<-- [end:normalise]


def centre_rate(p: float, block_size: int, height: int, width: int) -> float:
    """gamma, with which about a share p of the positions is dropped (equation 1)."""
    # --8<-- [start:gamma]
    valid = (height - block_size + 1) * (width - block_size + 1)
    return p / block_size**2 * height * width / valid
    # --8<-- [end:gamma]


class DropBlock(nn.Module):
    """Drop blocks of a feature map in training; put behind a layer or a stage.

    Args:
        p: about what share of the positions is dropped, 1 - keep_prob in the paper.
        block_size: b, side of a block: 1 is dropout, H = W drops whole channels.

    Shape: (N, C, H, W) -> (N, C, H, W). In evaluation the input itself is returned.
    Raises: ValueError for a p outside [0, 1), a block_size that is not 1, 3, 5, ..., an
        input that is not 4-dimensional, or a feature map smaller than a block.
    """

    def __init__(self, p: float, block_size: int = 7) -> None:
        super().__init__()
        if not (0 <= p < 1 and block_size >= 1 and block_size % 2 == 1):
            raise ValueError(
                f"expected 0 <= p < 1 and an odd block_size, got {p=}, {block_size=}"
            )
        self.p, self.block_size = p, block_size

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or min(x.shape[2:]) < self.block_size:
            raise ValueError(
                f"expected (N, C, H, W) with H and W of {self.block_size} or more, "
                f"got {tuple(x.shape)}"
            )
        if not self.training or self.p == 0:
            return x
        n, c, height, width = x.shape
        # --8<-- [start:draw]
        gamma = centre_rate(self.p, self.block_size, height, width)
        shape = n, c, height - self.block_size + 1, width - self.block_size + 1
        centres = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(gamma)
        # --8<-- [end:draw]
        return drop_blocks(x, centres, self.block_size)

    def extra_repr(self) -> str:
        return f"p={self.p}, block_size={self.block_size}"


# --8<-- [end:module]
