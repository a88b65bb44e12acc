"""EfficientDet: a pyramid that is fused in both directions with learnt weights, scaled.

Source: Tan, Pang and Le, "EfficientDet: Scalable and Efficient Object Detection",
CVPR 2020, arXiv:1911.09070v7, sections 3 and 4; what these leave open (biases, norms,
resampling) is that of the authors' code, google/automl, commit 031e806.
Legend: N images, H x W pixels, C_l channels of the backbone's map l, D channels and L
levels of the pyramid, I maps that meet in a node, K classes, A anchors of all levels.
"""

# --8<-- [start:imports]
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]
from cnn_techniques.detection.retinanet import (
    RetinaNetOutput,
    _retinanet_rows,
    retinanet_anchors,
)
from cnn_techniques.modern.efficientnet import (
    EfficientNet,
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
    efficientnet_b5,
    efficientnet_b6,
    efficientnet_b7,
)


# --8<-- [start:module]
def fusion_shares(weights: Tensor, eps: float = 1e-4) -> Tensor:
    """How much each of I maps counts: from 0 on, less than 1 together: (I,)."""
    # --8<-- [start:shares]
    w = torch.relu(weights)
    return w / (eps + w.sum())
    # --8<-- [end:shares]


def fast_normalized_fusion(maps: Sequence[Tensor], weights: Tensor) -> Tensor:
    """I maps of one shape, each times its share, added."""
    if len(maps) != len(weights):
        raise ValueError(f"expected {len(weights)} maps, one a weight, got {len(maps)}")
    # --8<-- [start:fusion]
    shares = fusion_shares(weights)
    parts = [share * x for share, x in zip(shares, maps, strict=True)]
    fused = torch.stack(parts).sum(dim=0)
    # --8<-- [end:fusion]
    return fused


def efficientdet_separable(channels: int, outputs: int) -> nn.Sequential:
    """A 3x3 filter for each channel, then a 1x1 convolution: (N, D, H, W) likewise."""
    spatial = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
    return nn.Sequential(spatial, nn.Conv2d(channels, outputs, 1))


def efficientdet_norm(channels: int) -> nn.BatchNorm2d:
    """The authors' epsilon and momentum, TensorFlow's 0.99."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def efficientdet_project(in_channels: int, channels: int) -> nn.Module:
    """Bring a map to D channels, if it has another number of them."""
    if in_channels == channels:
        return nn.Identity()
    # Before a batch norm a bias does nothing; it is in the published counts.
    conv = nn.Conv2d(in_channels, channels, 1)
    return nn.Sequential(conv, efficientdet_norm(channels))


class BiFPNNode(nn.Module):
    """Fuse maps of one shape, then SiLU, a separable convolution and a batch norm.

    Args:
        maps: I, how many meet here.
        channels: D, of each.
        weighted: fuse with learnt weights, at first 1; else add the maps.

    Shape: I maps (N, D, H, W) -> (N, D, H, W).
    """

    def __init__(self, maps: int, channels: int, weighted: bool = True) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(maps)) if weighted else None
        self.conv = efficientdet_separable(channels, channels)
        self.norm = efficientdet_norm(channels)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        if self.weights is None:
            fused = torch.stack(tuple(maps)).sum(dim=0)
        else:
            fused = fast_normalized_fusion(maps, self.weights)
        y: Tensor = self.norm(self.conv(F.silu(fused)))
        return y


class BiFPNLayer(nn.Module):
    """Once from the coarsest level to the finest, and back to the coarsest.

    Args:
        in_channels: of each level, finest first; two levels or more.
        channels: D, of each level that comes out.
        weighted: fuse with learnt weights.

    Shape: levels (N, C_l, H_l, W_l) -> (N, D, H_l, W_l), each half the finer one.
    """

    def __init__(
        self, in_channels: Sequence[int], channels: int, weighted: bool = True
    ) -> None:
        super().__init__()
        last = len(in_channels) - 1
        # A map that is used on both ways is projected for each by itself.
        self.down_in, self.up_in = (
            nn.ModuleList(efficientdet_project(c, channels) for c in widths)
            for widths in (in_channels, in_channels[1:])
        )
        self.down = nn.ModuleList(BiFPNNode(2, channels, weighted) for _ in range(last))
        self.up = nn.ModuleList(
            BiFPNNode(2 if level == last else 3, channels, weighted)
            for level in range(1, last + 1)
        )

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        last = len(levels) - 1
        # --8<-- [start:down]
        td = [self.down_in[last](levels[last])]  # finest first
        for level in range(last - 1, -1, -1):
            x = self.down_in[level](levels[level])
            doubled = F.interpolate(td[0], size=x.shape[2:], mode="nearest")
            td.insert(0, self.down[level]([x, doubled]))
        # --8<-- [end:down]
        # --8<-- [start:up]
        out = td[:1]
        for level in range(1, last + 1):
            x = self.up_in[level - 1](levels[level])
            between = [td[level]] if level < last else []  # the coarsest has none
            halved = F.max_pool2d(out[-1], 3, stride=2, padding=1)
            out.append(self.up[level - 1]([x, *between, halved]))
        # --8<-- [end:up]
        return out


class BiFPN(nn.Module):
    """Add coarser levels to a backbone's maps, and pass all through layers of fusion.

    Args:
        in_channels: C_l of each map, finest first.
        channels: D, of every level.
        layers: how many BiFPN layers follow each other.
        levels: L, at least as many as maps.
        weighted: fuse with learnt weights (the authors' D6, D7 and D7x do not).

    Shape: maps (N, C_l, H_l, W_l) -> L levels (N, D, H_l, W_l), finest first.
    Raises: ValueError for sizes below 1, fewer than two levels, or other maps.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int,
        layers: int,
        levels: int = 5,
        weighted: bool = True,
    ) -> None:
        super().__init__()
        given = f"{in_channels=}, {channels=}, {layers=}, {levels=}"
        if not in_channels or min(*in_channels, channels, layers) < 1 or levels < 2:
            raise ValueError(f"need sizes >= 1 and two levels or more, got {given}")
        if levels < len(in_channels):
            raise ValueError(f"need a level for each map, got {given}")
        self.in_channels = tuple(in_channels)
        extra = levels - len(in_channels)
        widths = [*in_channels, *extra * [channels]]
        steps = zip(widths[len(in_channels) - 1 :], extra * [channels], strict=False)
        self.extra = nn.ModuleList(efficientdet_project(c, d) for c, d in steps)
        self.layers = nn.ModuleList(
            BiFPNLayer(levels * [channels] if k else widths, channels, weighted)
            for k in range(layers)
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        if tuple(c.shape[1] for c in maps) != self.in_channels:
            shapes = [tuple(c.shape) for c in maps]
            raise ValueError(f"expected maps of {self.in_channels=}, got {shapes}")
        levels = list(maps)
        for project in self.extra:
            levels.append(F.max_pool2d(project(levels[-1]), 3, stride=2, padding=1))
        for layer in self.layers:
            levels = layer(levels)
        return levels


class EfficientDetHead(nn.Module):
    """Numbers of every anchor: all levels share the convolutions, but not the norms.

    Args:
        channels: D, of the levels.
        outputs: numbers of an anchor, K or 4.
        repeats: separable convolutions before the last.
        levels: L.
        bias: of the last convolution at first.

    Shape: L levels (N, D, H_l, W_l) -> L times (N, 9 * H_l * W_l, outputs).
    """

    def __init__(
        self, channels: int, outputs: int, repeats: int, levels: int, bias: float = 0.0
    ) -> None:
        super().__init__()
        convs = (efficientdet_separable(channels, channels) for _ in range(repeats))
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(
            nn.ModuleList(efficientdet_norm(channels) for _ in range(repeats))
            for _ in range(levels)
        )
        self.predict = efficientdet_separable(channels, 9 * outputs)
        self.outputs, self.first_bias = outputs, bias

    def forward(self, levels: Sequence[Tensor]) -> list[Tensor]:
        rows = []
        # --8<-- [start:head]
        for x, norms in zip(levels, self.norms, strict=True):
            for conv, norm in zip(self.convs, norms, strict=True):  # type: ignore
                x = F.silu(norm(conv(x)))
            rows.append(_retinanet_rows(self.predict(x), self.outputs))
        # --8<-- [end:head]
        return rows


class EfficientNetMaps(nn.Module):
    """An EfficientNet, taken over without its last 1x1 convolution and classifier.

    Shape: (N, 3, H, W) -> C3, C4, C5: (N, C_l, H / 2^l, W / 2^l), rounded up.
    """

    def __init__(self, efficientnet: EfficientNet) -> None:
        super().__init__()
        self.features = efficientnet.features[:-1]

    def forward(self, images: Tensor) -> list[Tensor]:
        x, maps = images, [images]
        for stage in self.features:
            x = stage(x)
            if x.shape[2:] == maps[-1].shape[2:]:
                maps.pop()  # of the stages of one size the last
            maps.append(x)
        return maps[3:]  # without the image, 1/2 and 1/4


class EfficientDet(nn.Module):
    """A backbone, a BiFPN, and two heads that read every level.

    Args:
        backbone: gives the maps of a batch of images that the BiFPN takes.
        bifpn: gives levels of D channels, each half as large as the finer one.
        channels: D.
        num_classes: K, without background.
        repeats: separable convolutions of a head before its last.
        anchor_sizes: side of each level's smallest square anchor, in pixels.
        first_stride: pixels of the image from one cell of the finest level to the next.

    Shape: (N, C, H, W) -> RetinaNetOutput, for retinanet_loss and retinanet_detections.
    Raises: ValueError for sizes below 1, another input, or other levels.
    """

    def __init__(
        self,
        backbone: nn.Module,
        bifpn: nn.Module,
        channels: int,
        num_classes: int,
        repeats: int = 3,
        anchor_sizes: Sequence[float] = (32, 64, 128, 256, 512),
        first_stride: int = 8,
    ) -> None:
        super().__init__()
        given = f"{channels=}, {num_classes=}, {anchor_sizes=}, {first_stride=}"
        if min(channels, num_classes, first_stride, *anchor_sizes) < 1 or repeats < 0:
            raise ValueError(f"sizes must be at least 1, got {given}, {repeats=}")
        shape, prior = (repeats, len(anchor_sizes)), -math.log((1 - 0.01) / 0.01)
        classes = EfficientDetHead(channels, num_classes, *shape, prior)
        self.class_head, self.box_head = classes, EfficientDetHead(channels, 4, *shape)
        self.bifpn = bifpn
        for module in self.modules():  # not yet the backbone, which has its own weights
            if isinstance(module, nn.Conv2d):
                fan_in = module.weight[0].numel()
                nn.init.normal_(module.weight, std=fan_in**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(classes.predict[1].bias, prior)  # type: ignore[arg-type]
        self.backbone = backbone
        self.anchor_sizes, self.first_stride = tuple(anchor_sizes), first_stride

    def forward(self, images: Tensor) -> RetinaNetOutput:
        if images.ndim != 4:
            raise ValueError(f"expected images (N, C, H, W), got {tuple(images.shape)}")
        levels, size = self.bifpn(self.backbone(images)), tuple(images.shape[2:])
        if len(levels) != len(self.anchor_sizes):
            raise ValueError(f"expected {self.anchor_sizes=}, got {len(levels)} levels")
        anchors = []
        for k, (level, side) in enumerate(zip(levels, self.anchor_sizes, strict=True)):
            grid, stride = tuple(level.shape[2:]), self.first_stride * 2**k
            if grid != tuple(-(-s // stride) for s in size):
                told = f"a cell every {stride} of {size} pixels, got a level of {grid}"
                raise ValueError(f"expected {told} cells")
            anchors.append(retinanet_anchors(grid, stride, side).to(images))
        merged = (
            torch.cat(head(levels), 1) for head in (self.class_head, self.box_head)
        )
        sizes = [len(a) for a in anchors]
        return RetinaNetOutput(*merged, torch.cat(anchors), sizes, size)  # type: ignore


# --8<-- [start:variants]
def _efficientdet(
    backbone: EfficientNet,
    maps: tuple[int, int, int],
    channels: int,
    layers: int,
    repeats: int,
    num_classes: int,
    anchor_scale: float = 4,
    levels: int = 5,
    weighted: bool = True,
) -> EfficientDet:
    bifpn = BiFPN(maps, channels, layers, levels, weighted)
    sizes = [anchor_scale * 2**level for level in range(3, 3 + levels)]
    body = EfficientNetMaps(backbone)
    return EfficientDet(body, bifpn, channels, num_classes, repeats, sizes)


def efficientdet_d0(num_classes: int = 90) -> EfficientDet:  # for 512 x 512 pixels
    return _efficientdet(efficientnet_b0(), (40, 112, 320), 64, 3, 3, num_classes)


def efficientdet_d1(num_classes: int = 90) -> EfficientDet:  # 640
    return _efficientdet(efficientnet_b1(), (40, 112, 320), 88, 4, 3, num_classes)


def efficientdet_d2(num_classes: int = 90) -> EfficientDet:  # 768
    return _efficientdet(efficientnet_b2(), (48, 120, 352), 112, 5, 3, num_classes)


def efficientdet_d3(num_classes: int = 90) -> EfficientDet:  # 896
    return _efficientdet(efficientnet_b3(), (48, 136, 384), 160, 6, 4, num_classes)


def efficientdet_d4(num_classes: int = 90) -> EfficientDet:  # 1024
    return _efficientdet(efficientnet_b4(), (56, 160, 448), 224, 7, 4, num_classes)


def efficientdet_d5(num_classes: int = 90) -> EfficientDet:  # 1280
    return _efficientdet(efficientnet_b5(), (64, 176, 512), 288, 7, 4, num_classes)


def efficientdet_d6(num_classes: int = 90) -> EfficientDet:  # 1280
    shape = (72, 200, 576), 384, 8, 5, num_classes
    return _efficientdet(efficientnet_b6(), *shape, weighted=False)


def efficientdet_d7(num_classes: int = 90) -> EfficientDet:  # 1536
    """D6 for larger images, and anchors by a quarter larger."""
    shape = (72, 200, 576), 384, 8, 5, num_classes
    return _efficientdet(efficientnet_b6(), *shape, anchor_scale=5, weighted=False)


def efficientdet_d7x(num_classes: int = 90) -> EfficientDet:  # 1536
    """D7 on EfficientNet-B7, with a sixth level and the anchors of D6."""
    shape = (80, 224, 640), 384, 8, 5, num_classes
    return _efficientdet(efficientnet_b7(), *shape, levels=6, weighted=False)


# --8<-- [end:variants]
# --8<-- [end:module]
