# --8<-- [start:usage]
import torch
from torch import Tensor, nn


def unit(raw: Tensor, bits: int) -> Tensor:
    """Values of `bits` bits, in any integer type, as 0 to 1."""
    values = raw.long()  # bytes would take 2**8 for 0, and uint16 has no minimum
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 2**bits:
        raise ValueError(f"expected 0 to {2**bits - 1}, got {low} to {high}")
    return values.float() / (2**bits - 1)


def first_convolution(conv: nn.Conv2d, channels: int) -> nn.Conv2d:
    """The same filters for images of another number of channels."""
    if conv.groups != 1:
        raise ValueError(f"expected a convolution of one group, got {conv.groups}")
    new = nn.Conv2d(
        channels,
        conv.out_channels,
        conv.kernel_size,
        conv.stride,
        conv.padding,
        conv.dilation,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
    ).to(conv.weight)
    with torch.no_grad():
        turn = torch.arange(channels) % conv.in_channels
        weight = conv.weight[:, turn]
        missing = conv.weight.sum(1, keepdim=True) - weight.sum(1, keepdim=True)
        new.weight.copy_(weight + missing / channels)  # the sum stays what it was
        if conv.bias is not None:
            new.bias.copy_(conv.bias)
    return new


@torch.no_grad()
def tiled(network: nn.Module, image: Tensor, size: int, margin: int) -> Tensor:
    """Scores (N, K, H, W) from tiles of `size` pixels with `margin` more around."""
    height, width = image.shape[2:]
    rows = []
    for top in range(0, height, size):
        row = []
        for left in range(0, width, size):
            bottom, right = min(top + size, height), min(left + size, width)
            up, start = max(top - margin, 0), max(left - margin, 0)
            piece = image[..., up : bottom + margin, start : right + margin]
            scores = network(piece)[..., top - up :, left - start :]
            row.append(scores[..., : bottom - top, : right - left])
        rows.append(torch.cat(row, dim=3))
    return torch.cat(rows, dim=2)


# --8<-- [end:usage]
