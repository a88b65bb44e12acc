"""ConvNeXt: a ResNet brought, step by step, to the design of a vision transformer.

Source: Liu et al., "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545, section 2,
figure 4, table 9.
Legend: N images, C channels of the image, H x W pixels, K classes, D width of a stage.
"""

# --8<-- [start:imports]
from collections.abc import Sequence

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
class _ConvNeXtPermute(nn.Module):
    """Reorder the four dimensions; no data is moved."""

    def __init__(self, *dims: int) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.dims)


class _ConvNeXtLayerNorm(nn.LayerNorm):
    """Normalise the channels at each place, (N, D, H, W) -> the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _ConvNeXtDropPath(nn.Module):
    """In training, with probability p, a whole image of the batch becomes zero."""

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"expected 0 <= drop_path < 1, got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0 or not self.training:
            return x
        kept = torch.rand(x.shape[0], 1, 1, 1, dtype=x.dtype, device=x.device) >= self.p
        return x * kept / (1 - self.p)  # the mean stays


class CNBlock(nn.Module):
    """A depthwise 7x7 convolution mixes places, then an MLP mixes channels.

    Args:
        width: D, channels of input and output; the MLP is 4 * D wide inside.
        drop_path: probability that training leaves the branch out, image by image.
        layer_scale: the number by which each channel of the branch starts multiplied.

    Shape: (N, D, H, W) -> (N, D, H, W).
    """

    def __init__(
        self, width: int, drop_path: float = 0.0, layer_scale: float = 1e-6
    ) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(width, width, 7, padding=3, groups=width),
            _ConvNeXtPermute(0, 2, 3, 1),  # (N, H, W, D)
            nn.LayerNorm(width, eps=1e-6),
            nn.Linear(width, 4 * width),  # (N, H, W, 4*D)
            nn.GELU(),
            nn.Linear(4 * width, width),  # (N, H, W, D)
            _ConvNeXtPermute(0, 3, 1, 2),  # (N, D, H, W)
        )
        self.layer_scale = nn.Parameter(torch.full((width, 1, 1), layer_scale))
        self.drop_path = _ConvNeXtDropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.drop_path(self.layer_scale * self.block(x))
        y += x
        return y


class ConvNeXt(nn.Module):
    """A stem of 4x4 patches, stages of blocks, and a linear classifier.

    Between stages a 2x2 convolution of stride 2 halves height and width.

    Args:
        layers: blocks of each stage (ConvNeXt-T: 3, 3, 9, 3).
        widths: D of each stage (ConvNeXt-T: 96, 192, 384, 768).
        num_classes: K, width of the output.
        drop_path: drop rate of the last block; it grows to this evenly from 0.
        in_channels: C, channels of the images.
        block: makes a block from D and its drop rate.

    Shape: (N, C, H, W) -> (N, K), for H and W of at least 4 * 2 ** (stages - 1).
    Raises: ValueError for impossible sizes, or an input of another shape.
    """

    def __init__(
        self,
        layers: Sequence[int],
        widths: Sequence[int],
        num_classes: int = 1000,
        drop_path: float = 0.0,
        in_channels: int = 3,
        block: type[CNBlock] = CNBlock,
    ) -> None:
        super().__init__()
        if not layers or len(layers) != len(widths) or min(*layers, *widths) < 1:
            sizes = f"{tuple(layers)} blocks and widths {tuple(widths)}"
            raise ValueError(
                f"expected as many widths as stages, all 1 or more: {sizes}"
            )
        if min(num_classes, in_channels) < 1:
            raise ValueError(f"must be at least 1, got {num_classes=}, {in_channels=}")
        if not 0 <= drop_path < 1:
            raise ValueError(f"expected 0 <= drop_path < 1, got {drop_path=}")
        self.in_channels = in_channels
        self.smallest = 4 * 2 ** (len(layers) - 1)
        width = widths[0]
        stem = nn.Conv2d(in_channels, width, 4, stride=4)
        parts = [nn.Sequential(stem, _ConvNeXtLayerNorm(width, eps=1e-6))]
        step, start = drop_path / max(1, sum(layers) - 1), 0
        for blocks, wider in zip(layers, widths, strict=True):
            if start > 0:
                norm = _ConvNeXtLayerNorm(width, eps=1e-6)
                parts.append(nn.Sequential(norm, nn.Conv2d(width, wider, 2, stride=2)))
            width, end = wider, start + blocks
            rates = (step * index for index in range(start, end))
            parts.append(nn.Sequential(*(block(width, rate) for rate in rates)))
            start = end
        self.features = nn.Sequential(*parts)
        norm = _ConvNeXtLayerNorm(width, eps=1e-6)
        last = nn.Linear(width, num_classes)
        self.classifier = nn.Sequential(norm, nn.Flatten(1), last)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        c, least = self.in_channels, self.smallest
        if x.ndim != 4 or x.shape[1] != c or x.shape[2] < least or x.shape[3] < least:
            expected = f"(N, {c}, H, W) with H and W of at least {least}"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        y = self.features(x)  # (N, D, H/32, W/32)
        scores: Tensor = self.classifier(y.mean(dim=(2, 3), keepdim=True))  # (N, K)
        return scores


def convnext_tiny(num_classes: int = 1000, drop_path: float = 0.1) -> ConvNeXt:
    """ConvNeXt-T."""
    return ConvNeXt((3, 3, 9, 3), (96, 192, 384, 768), num_classes, drop_path)


def convnext_small(num_classes: int = 1000, drop_path: float = 0.4) -> ConvNeXt:
    """ConvNeXt-S."""
    return ConvNeXt((3, 3, 27, 3), (96, 192, 384, 768), num_classes, drop_path)


def convnext_base(num_classes: int = 1000, drop_path: float = 0.5) -> ConvNeXt:
    """ConvNeXt-B."""
    return ConvNeXt((3, 3, 27, 3), (128, 256, 512, 1024), num_classes, drop_path)


def convnext_large(num_classes: int = 1000, drop_path: float = 0.5) -> ConvNeXt:
    """ConvNeXt-L."""
    return ConvNeXt((3, 3, 27, 3), (192, 384, 768, 1536), num_classes, drop_path)


def convnext_xlarge(num_classes: int = 1000, drop_path: float = 0.2) -> ConvNeXt:
    """ConvNeXt-XL, published with pre-training on ImageNet-22K only."""
    return ConvNeXt((3, 3, 27, 3), (256, 512, 1024, 2048), num_classes, drop_path)


# --8<-- [end:module]
