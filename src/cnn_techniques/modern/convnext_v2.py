"""ConvNeXt V2: ConvNeXt's block with a norm by which channels compete for response.

Source: Woo et al., "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked
Autoencoders", CVPR 2023, arXiv:2301.00808, section 3.2, equations 1 to 4, algorithm 1.
Legend: N images, H x W pixels, K classes, D width of a stage, C channels of the norm.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn

# --8<-- [end:imports]
from cnn_techniques.modern.convnext import CNBlock, ConvNeXt


# --8<-- [start:module]
class GlobalResponseNorm(nn.Module):
    """Scale each channel by its share of the response of the whole image.

    Args:
        channels: C, the last dimension of the input.
        eps: added to the mean response, against division by zero.

    Shape: (N, H, W, C) -> (N, H, W, C).
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"expected one channel or more, got {channels=}")
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        g = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)  # (N, 1, 1, C)
        n = g / (g.mean(dim=-1, keepdim=True) + self.eps)  # 1 for the mean channel
        # gamma * (x * n) + beta + x, in one pass over x
        return torch.addcmul(self.beta, x, self.gamma * n + 1)


class CNBlockV2(CNBlock):
    """ConvNeXt's block with the norm behind the GELU, and without layer scale.

    Args:
        width: D, channels of input and output; the MLP is 4 * D wide inside.
        drop_path: probability that training leaves the branch out, image by image.

    Shape: (N, D, H, W) -> (N, D, H, W).
    """

    def __init__(self, width: int, drop_path: float = 0.0) -> None:
        super().__init__(width, drop_path)
        self.block.insert(5, GlobalResponseNorm(4 * width))
        del self.layer_scale

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.drop_path(self.block(x))
        y += x
        return y


class ConvNeXtV2(ConvNeXt):
    """ConvNeXt of the second block; arguments, shapes and errors are those of ConvNeXt.

    Args:
        layers: blocks of each stage (V2-Atto: 2, 2, 6, 2).
        width: D of the first stage (V2-Atto: 40); each further one doubles it.
        num_classes: K, width of the output.
        drop_path: drop rate of the last block; it grows to this evenly from 0.
        in_channels: channels of the images.
    """

    def __init__(
        self,
        layers: tuple[int, ...],
        width: int,
        num_classes: int = 1000,
        drop_path: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        widths = [width * 2**stage for stage in range(len(layers))]
        super().__init__(
            layers, widths, num_classes, drop_path, in_channels, block=CNBlockV2
        )


def convnextv2_atto(num_classes: int = 1000, drop_path: float = 0.1) -> ConvNeXtV2:
    """ConvNeXt V2-A."""
    return ConvNeXtV2((2, 2, 6, 2), 40, num_classes, drop_path)


def convnextv2_femto(num_classes: int = 1000, drop_path: float = 0.0) -> ConvNeXtV2:
    """ConvNeXt V2-F."""
    return ConvNeXtV2((2, 2, 6, 2), 48, num_classes, drop_path)


def convnextv2_pico(num_classes: int = 1000, drop_path: float = 0.0) -> ConvNeXtV2:
    """ConvNeXt V2-P."""
    return ConvNeXtV2((2, 2, 6, 2), 64, num_classes, drop_path)


def convnextv2_nano(num_classes: int = 1000, drop_path: float = 0.1) -> ConvNeXtV2:
    """ConvNeXt V2-N."""
    return ConvNeXtV2((2, 2, 8, 2), 80, num_classes, drop_path)


def convnextv2_tiny(num_classes: int = 1000, drop_path: float = 0.2) -> ConvNeXtV2:
    """ConvNeXt V2-T."""
    return ConvNeXtV2((3, 3, 9, 3), 96, num_classes, drop_path)


def convnextv2_base(num_classes: int = 1000, drop_path: float = 0.1) -> ConvNeXtV2:
    """ConvNeXt V2-B."""
    return ConvNeXtV2((3, 3, 27, 3), 128, num_classes, drop_path)


def convnextv2_large(num_classes: int = 1000, drop_path: float = 0.2) -> ConvNeXtV2:
    """ConvNeXt V2-L."""
    return ConvNeXtV2((3, 3, 27, 3), 192, num_classes, drop_path)


def convnextv2_huge(num_classes: int = 1000, drop_path: float = 0.3) -> ConvNeXtV2:
    """ConvNeXt V2-H."""
    return ConvNeXtV2((3, 3, 27, 3), 352, num_classes, drop_path)


# --8<-- [end:module]
