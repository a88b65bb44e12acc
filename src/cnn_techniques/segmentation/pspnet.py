"""PSPNet: averages over the parts of an image tell each pixel what scene it is in.

Source: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, arXiv:1612.01105v2,
sections 3 and 4; what these leave open is as in the authors' Caffe networks.
Legend: N images, H x W pixels, C channels of the last feature map, which has h x w
places, K classes with the background.
"""

# --8<-- [start:imports]
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]
from cnn_techniques.modern.resnet import ResNet, resnet50, resnet101
from cnn_techniques.segmentation.fcn import FCNHead, keep_resolution


# --8<-- [start:module]
class PyramidPooling(nn.Module):
    """A feature map, and beside it what it averages to over coarser and coarser parts.

    Args:
        channels: C.
        bins: n of each level of the pyramid, which divides the map into n x n parts.

    Shape: (N, C, h, w) -> (N, 2 C, h, w), the map itself first.
    Raises: ValueError for bins below 1, or a number of levels that does not divide C.
    """

    def __init__(self, channels: int, bins: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__()
        if not bins or min(bins) < 1 or channels < 1 or channels % len(bins):
            expected = "bins of 1 or more, and channels that their number divides"
            raise ValueError(f"expected {expected}, got {channels=}, {bins=}")
        reduced = channels // len(bins)  # so that all levels weigh as much as the map
        # --8<-- [start:levels]
        self.levels = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(n),  # (N, C, n, n)
                nn.Conv2d(channels, reduced, 1, bias=False),  # (N, C / 4, n, n)
                nn.BatchNorm2d(reduced),
                nn.ReLU(),
            )
            for n in bins
        )
        # --8<-- [end:levels]

    def forward(self, x: Tensor) -> Tensor:
        # --8<-- [start:pyramid]
        maps = [x]
        for level in self.levels:
            maps.append(_pspnet_enlarged(level(x), x.shape[-2:]))  # (N, C / 4, h, w)
        return torch.cat(maps, dim=1)  # (N, 2 C, h, w)
        # --8<-- [end:pyramid]


class PSPNetOutput(NamedTuple):
    """Scores of every pixel, (N, K, H, W)."""

    out: Tensor
    aux: Tensor  # from the stage before the last; only training looks at it


class PSPNet(nn.Module):
    """Pyramid pooling on the last stage of a dilated ResNet, enlarged to the image.

    Args:
        resnet: is taken over without its classifier; its last two strides go.
        num_classes: K, with the background as class 0.
        bins: of the pyramid.

    Shape: (N, 3, H, W) -> PSPNetOutput; H and W of 8 k + 1 keep cells on their pixels.
    Raises: ValueError for fewer than two stages, no class, or bins that do not fit.
    """

    def __init__(
        self,
        resnet: ResNet,
        num_classes: int = 21,
        bins: Sequence[int] = (1, 2, 3, 6),
    ) -> None:
        super().__init__()
        if len(resnet.stages) < 2 or num_classes < 1:
            given = f"{len(resnet.stages)} stages and {num_classes=}"
            raise ValueError(f"expected two stages and a class or more, got {given}")
        channels = resnet.fc.in_features
        self.backbone = keep_resolution(resnet)
        self.backbone.fc = nn.Identity()  # type: ignore[assignment]
        self.pyramid = PyramidPooling(channels, bins)
        self.classifier = nn.Sequential(
            nn.Conv2d(2 * channels, channels // 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels // 4),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv2d(channels // 4, num_classes, 1),
        )
        self.aux_classifier = FCNHead(channels // 2, num_classes)

    def forward(self, x: Tensor) -> PSPNetOutput:
        # --8<-- [start:forward]
        *_, before, last = self.backbone.features(x)  # (N, C / 2 and C, H / 8, W / 8)
        out = self.classifier(self.pyramid(last))  # (N, K, H / 8, W / 8)
        aux = self.aux_classifier(before)
        size = x.shape[-2:]
        return PSPNetOutput(_pspnet_enlarged(out, size), _pspnet_enlarged(aux, size))
        # --8<-- [end:forward]


def _pspnet_enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    """The first and the last place lie on the first and the last of the larger map."""
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=True)


def pspnet_loss(
    output: PSPNetOutput, masks: Tensor, alpha: float = 0.4, ignored: int = 255
) -> Tensor:
    """Cross-entropy, the mean over the labelled pixels; 0 if there are none.

    Args:
        output: of the network, in training.
        masks: class of each pixel, (N, H, W), int64.
        alpha: weight of the auxiliary scores' loss.
        ignored: class of pixels without a label.

    Shape: PSPNetOutput, (N, H, W) -> ().
    Raises: ValueError for masks of another size than the scores.
    """
    size = len(output.out), *output.out.shape[-2:]
    if masks.shape != size:
        raise ValueError(f"expected masks of {size}, got {tuple(masks.shape)}")
    labelled = (masks != ignored).sum().clamp(min=1)
    # --8<-- [start:loss]
    main, auxiliary = (
        F.cross_entropy(scores, masks, ignore_index=ignored, reduction="sum") / labelled
        for scores in output
    )
    return main + alpha * auxiliary
    # --8<-- [end:loss]


def pspnet_resnet50(num_classes: int = 21) -> PSPNet:
    return PSPNet(resnet50(), num_classes)


def pspnet_resnet101(num_classes: int = 21) -> PSPNet:
    return PSPNet(resnet101(), num_classes)


# --8<-- [end:module]
