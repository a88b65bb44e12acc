"""DeepLab v3+: atrous convolutions see context at several rates, a decoder the edges.

Source: Chen et al., "Encoder-Decoder with Atrous Separable Convolution for Semantic
Image Segmentation", ECCV 2018, arXiv:1802.02611, section 3; the image pooling is of
Chen et al., arXiv:1706.05587, section 3.3.
Legend: N images, C channels in, D channels out, H x W pixels, h x w positions,
K classes, r atrous rate.
"""

# --8<-- [start:imports]
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]
from cnn_techniques.modern.resnet import ResNet, resnet50, resnet101
from cnn_techniques.segmentation.fcn import keep_resolution


# --8<-- [start:module]
class AtrousSeparableConv(nn.Sequential):
    """A 3x3 filter with gaps for each channel, then a 1x1 that mixes the channels.

    Args:
        rate: r, the distance between neighbouring taps; 1 leaves no gaps.

    Shape: (N, C, h, w) -> (N, D, h, w).
    Parameters: 9 * C + C * D.
    """

    def __init__(self, in_channels: int, out_channels: int, rate: int = 1) -> None:
        c = in_channels
        super().__init__(
            # --8<-- [start:separable]
            nn.Conv2d(c, c, 3, padding=rate, dilation=rate, groups=c, bias=False),
            nn.Conv2d(c, out_channels, 1, bias=False),
            # --8<-- [end:separable]
        )


class ASPPPooling(nn.Sequential):
    """One vector for the whole feature map, written to each of its positions.

    Shape: (N, C, h, w) -> (N, D, h, w).
    Raises: ValueError from the batch norm, in training, for a batch of one image.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        norm = nn.BatchNorm2d(out_channels)
        super().__init__(nn.AdaptiveAvgPool2d(1), conv, norm, nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self:
            y = layer(y)  # (N, C, 1, 1), then (N, D, 1, 1)
        return y.expand(-1, -1, *x.shape[-2:])


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: five views of one feature map, side by side.

    Args:
        in_channels: C, channels of the feature map.
        rates: r of each 3x3 convolution.
        out_channels: D, channels of each view and of the output.
        separable: depthwise separable 3x3 convolutions, as in v3+; ordinary ones in v3.
        dropout: rate at the end.

    Shape: (N, C, h, w) -> (N, D, h, w).
    Raises: ValueError for no rate, or one below 1.
    """

    def __init__(
        self,
        in_channels: int,
        rates: Sequence[int],
        out_channels: int = 256,
        separable: bool = True,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if not rates or min(rates) < 1:
            raise ValueError(f"expected rates of 1 or more, got {rates=}")
        c, d = in_channels, out_channels
        views: list[nn.Module] = [_aspp_view(nn.Conv2d(c, d, 1, bias=False), d)]
        for r in rates:
            ordinary = nn.Conv2d(c, d, 3, padding=r, dilation=r, bias=False)
            conv = AtrousSeparableConv(c, d, r) if separable else ordinary
            views.append(_aspp_view(conv, d))
        self.convs = nn.ModuleList([*views, ASPPPooling(c, d)])
        merge = nn.Conv2d(len(self.convs) * d, d, 1, bias=False)
        self.project = _aspp_view(merge, d).append(nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        # --8<-- [start:aspp]
        views = [view(x) for view in self.convs]  # 1x1, 3x3 for each r, whole map
        y: Tensor = self.project(torch.cat(views, dim=1))  # (N, 5 D, h, w) -> D
        # --8<-- [end:aspp]
        return y


def _aspp_view(conv: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(conv, nn.BatchNorm2d(channels), nn.ReLU())


class DeepLabV3PlusDecoder(nn.Module):
    """Context from the last feature map, edges from an early one, joined at 1/4.

    Args:
        in_channels: channels of the last feature map.
        low_channels: channels of the early one.
        rates: of the pyramid.
        channels: D, of the pyramid and of the output.
        dropout: rate at the end of the pyramid.

    Shape: (N, C, h, w) and (N, C', H / 4, W / 4) -> (N, D, H / 4, W / 4).
    """

    def __init__(
        self,
        in_channels: int,
        low_channels: int,
        rates: Sequence[int],
        channels: int = 256,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        d, low = channels, 48  # few, so that they do not outweigh the context
        self.aspp = nn.Sequential(
            ASPP(in_channels, rates, d, dropout=dropout),
            *_aspp_view(AtrousSeparableConv(d, d), d),
        )
        self.block1 = _aspp_view(nn.Conv2d(low_channels, low, 1, bias=False), low)
        self.block2 = _aspp_view(AtrousSeparableConv(low + d, d), d)

    def forward(self, last: Tensor, low: Tensor) -> Tensor:
        # --8<-- [start:decoder]
        y = _deeplab_resize(self.aspp(last), low.shape[-2:])  # (N, D, H/4, W/4)
        y = torch.cat([y, self.block1(low)], dim=1)  # (N, D + 48, H/4, W/4)
        y = self.block2(y)  # (N, D, H/4, W/4)
        # --8<-- [end:decoder]
        return y


def _deeplab_resize(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, with the centres of the corner positions on those of the corners."""
    return F.interpolate(x, list(size), mode="bilinear", align_corners=True)


class DeepLabV3Plus(nn.Module):
    """A dilated ResNet, atrous spatial pyramid pooling, a decoder, scores.

    Args:
        resnet: is taken over without its classifier, and dilated; of four stages.
        num_classes: K, with the background as class 0.
        output_stride: 16 or 8, the image's side over that of the last feature map.
        rates: of the pyramid; None for 6, 12, 18 at stride 16, twice these at 8.
        channels: D, of pyramid and decoder.
        dropout: rate at the end of the pyramid.
        dilate_first: dilate the first block of a stage like the others, as
            segmentation-models-pytorch does; in torchvision it keeps the rate before.

    Shape: (N, C, H, W) -> (N, K, H, W), scores before the softmax.
    Raises: ValueError for another stride, other than four stages, and for no class.
    """

    def __init__(
        self,
        resnet: ResNet,
        num_classes: int = 21,
        output_stride: int = 16,
        rates: Sequence[int] | None = None,
        channels: int = 256,
        dropout: float = 0.5,
        dilate_first: bool = False,
    ) -> None:
        super().__init__()
        if output_stride not in (8, 16):
            raise ValueError(f"expected output stride 8 or 16, got {output_stride=}")
        if len(resnet.stages) != 4 or min(num_classes, channels) < 1:
            given = f"{len(resnet.stages)} stages, {num_classes=}, {channels=}"
            raise ValueError(f"expected four stages, a class or more, got {given}")
        last = resnet.fc.in_features
        # --8<-- [start:stride]
        stages = 1 if output_stride == 16 else 2  # these lose their stride
        self.encoder = keep_resolution(resnet, stages)
        rates = rates or [r * 16 // output_stride for r in (6, 12, 18)]
        # --8<-- [end:stride]
        self.encoder.fc = nn.Identity()  # type: ignore[assignment]
        if dilate_first:
            _dilate_first_blocks(resnet, stages)
        self.decoder = DeepLabV3PlusDecoder(last, last // 8, rates, channels, dropout)
        self.segmentation_head = nn.Sequential(nn.Conv2d(channels, num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        # --8<-- [start:forward]
        low, *_, last = self.encoder.features(x)  # at H/4, and at H/16 or H/8
        scores = self.segmentation_head(self.decoder(last, low))  # (N, K, H/4, W/4)
        return _deeplab_resize(scores, x.shape[-2:])  # (N, K, H, W)
        # --8<-- [end:forward]


def _dilate_first_blocks(resnet: ResNet, stages: int) -> None:
    for power, name in enumerate(resnet.stages[-stages:], start=1):
        for conv in next(resnet.get_submodule(name).children()).modules():
            if isinstance(conv, nn.Conv2d) and conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (2**power, 2**power)


def deeplabv3plus_resnet50(num_classes: int = 21) -> DeepLabV3Plus:
    return DeepLabV3Plus(resnet50(), num_classes)


def deeplabv3plus_resnet101(num_classes: int = 21) -> DeepLabV3Plus:
    return DeepLabV3Plus(resnet101(), num_classes)


# --8<-- [end:module]
