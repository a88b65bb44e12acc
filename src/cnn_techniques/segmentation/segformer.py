"""SegFormer: a transformer of four resolutions, read by a decoder of linear layers.

Source: Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation
with Transformers", NeurIPS 2021, arXiv:2105.15203, sections 3.1 and 3.2; names of
parameters from transformers 5.
Legend: N images, H x W pixels, h x w places of a stage, D its width, r how far its keys
are reduced in height and in width (the paper's R is r * r), K classes.
"""

# --8<-- [start:imports]
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]
from cnn_techniques.training.stochastic_depth import StochasticDepth


# --8<-- [start:module]
def _convolved(conv: nn.Module, x: Tensor) -> Tensor:
    """A convolution where channels are last: (N, h, w, D) -> (N, h', w', D')."""
    y: Tensor = conv(x.permute(0, 3, 1, 2))
    return y.permute(0, 2, 3, 1)


class OverlapPatchEmbeddings(nn.Module):
    """Patches larger than their distance become tokens.

    Args:
        channels: of the map before, C.
        width: D, entries of a token.
        patch: height and width of a patch (paper: 7, then 3).
        stride: distance of patches (paper: 4, then 2).

    Shape: (N, C, H, W) -> (N, h, w, D), with h = H / stride, rounded up.
    """

    def __init__(self, channels: int, width: int, patch: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch, stride, padding=patch // 2)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        # --8<-- [start:patches]
        tokens: Tensor = self.layer_norm(self.proj(x).permute(0, 2, 3, 1))
        # --8<-- [end:patches]
        return tokens


class SequenceReduction(nn.Module):
    """Each r x r places become one: (N, h, w, D) -> (N, h // r, w // r, D)."""

    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        r = reduction
        self.sequence_reduction = nn.Conv2d(width, width, kernel_size=r, stride=r)
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer_norm(_convolved(self.sequence_reduction, x))
        return y


class EfficientSelfAttention(nn.Module):
    """Every place reads from a coarser grid of places: r * r times fewer keys.

    Args:
        width: D.
        heads: must divide D.
        reduction: r (paper: 8, 4, 2, 1).

    Shape: (N, h, w, D) -> (N, h, w, D), for h and w of r or more.
    """

    def __init__(self, width: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.o_proj = nn.Linear(width, width)
        if reduction > 1:
            self.sequence_reduction = SequenceReduction(width, reduction)
        self.reduction = reduction

    def forward(self, x: Tensor) -> Tensor:
        # --8<-- [start:attention]
        coarse = self.sequence_reduction(x) if self.reduction > 1 else x
        q = self.by_head(self.q_proj(x))  # (N, heads, h w, D / heads)
        k = self.by_head(self.k_proj(coarse))  # (N, heads, h w / R, D / heads)
        v = self.by_head(self.v_proj(coarse))
        read = F.scaled_dot_product_attention(q, k, v)  # (N, heads, h w, D / heads)
        # --8<-- [end:attention]
        y: Tensor = self.o_proj(read.transpose(1, 2).reshape(x.shape))
        return y

    def by_head(self, x: Tensor) -> Tensor:
        """(N, h, w, D) -> (N, heads, h * w, D / heads)."""
        n, *_, width = x.shape
        return x.reshape(n, -1, self.heads, width // self.heads).transpose(1, 2)


class MixFFN(nn.Module):
    """An MLP at each place, with a depthwise 3x3 convolution inside.

    The zeros around the map tell the convolution where the border is: the only way in
    which this network knows of position.

    Shape: (N, h, w, D) -> (N, h, w, D).
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.dwconv = nn.Sequential(OrderedDict(dwconv=conv))  # the reference's name
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        # --8<-- [start:ffn]
        mixed = _convolved(self.dwconv, self.fc1(x))  # (N, h, w, 4 D)
        y: Tensor = self.fc2(F.gelu(mixed))
        # --8<-- [end:ffn]
        return y


class SegFormerBlock(nn.Module):
    """Attention, then Mix-FFN, each of normalised tokens and added to its input.

    Args:
        width: D; inside the Mix-FFN 4 D.
        heads: of attention.
        reduction: r.
        drop_path: how often training leaves a branch out, image by image.

    Shape: (N, h, w, D) -> (N, h, w, D).
    """

    def __init__(
        self, width: int, heads: int, reduction: int, drop_path: float
    ) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(width)
        self.attention = EfficientSelfAttention(width, heads, reduction)
        self.drop_path = StochasticDepth(drop_path)
        self.layernorm_after = nn.LayerNorm(width)
        self.mlp = MixFFN(width, 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attention(self.layernorm_before(x)))
        return x + self.drop_path(self.mlp(self.layernorm_after(x)))


class SegFormerStage(nn.Module):
    """Patches, blocks and a norm: (N, C, H, W) -> (N, D, h, w)."""

    def __init__(
        self, patches: OverlapPatchEmbeddings, blocks: Sequence[SegFormerBlock]
    ) -> None:
        super().__init__()
        self.patch_embeddings = patches
        self.blocks = nn.ModuleList(blocks)
        self.layer_norm = nn.LayerNorm(patches.proj.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch_embeddings(x)  # (N, h, w, D)
        for block in self.blocks:
            tokens = block(tokens)
        y: Tensor = self.layer_norm(tokens)
        return y.permute(0, 3, 1, 2)


class MixTransformer(nn.Module):
    """The encoder: maps at 1/4, 1/8, 1/16 and 1/32 of the image.

    At the paper's reductions H and W are 29 or more; keys cover the whole image at
    multiples of 32.

    Args:
        widths: D of each stage.
        depths: blocks of each stage.
        heads: of each stage.
        reductions: r of each stage.
        drop_path: of the last block; it grows to this evenly from 0.
        in_channels: C, channels of the images.

    Shape: (N, C, H, W) -> list of (N, D, h, w).
    Raises: ValueError for impossible sizes, or an input of another shape.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (8, 4, 2, 1),
        drop_path: float = 0.1,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        sizes = tuple(widths), tuple(depths), tuple(heads), tuple(reductions)
        if len({len(s) for s in sizes}) > 1 or min(map(min, sizes)) < 1:
            raise ValueError(f"expected as many numbers, 1 or more, each: {sizes}")
        if any(width % h for width, h in zip(widths, heads, strict=True)):
            raise ValueError(f"expected {heads=} that divide the widths, got {widths=}")
        self.in_channels = in_channels
        self.smallest = max((r - 1) * 4 * 2**i + 1 for i, r in enumerate(reductions))
        last = max(1, sum(depths) - 1)
        rates = [drop_path * block / last for block in range(sum(depths))]
        stages, channels = [], in_channels
        for i, (width, depth, h, r) in enumerate(zip(*sizes, strict=True)):
            patch, stride = (7, 4) if i == 0 else (3, 2)
            patches = OverlapPatchEmbeddings(channels, width, patch, stride)
            blocks = [SegFormerBlock(width, h, r, rates.pop(0)) for _ in range(depth)]
            stages.append(SegFormerStage(patches, blocks))
            channels = width
        self.stages = nn.ModuleList(stages)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                outputs = module.out_channels // module.groups
                fan_out = module.kernel_size[0] ** 2 * outputs
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> list[Tensor]:
        c, least = self.in_channels, self.smallest
        if x.ndim != 4 or x.shape[1] != c or min(x.shape[2:]) < least:
            expected = f"(N, {c}, H, W) with H and W of at least {least}"
            raise ValueError(f"expected {expected}, got {tuple(x.shape)}")
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class SegFormerHead(nn.Module):
    """The all-MLP decoder: maps of all stages -> (N, K, H/4, W/4).

    Args:
        widths: D of each stage.
        channels: to which each map is projected (paper: 256 in B0 and B1, else 768).
        num_classes: K.
        dropout: rate before the last layer.
    """

    def __init__(
        self, widths: Sequence[int], channels: int, num_classes: int, dropout: float
    ) -> None:
        super().__init__()
        self.linear_projections = nn.ModuleList(
            nn.Sequential(OrderedDict(proj=nn.Linear(w, channels))) for w in widths
        )
        self.linear_fuse = nn.Conv2d(len(widths) * channels, channels, 1, bias=False)
        self.batch_norm = nn.BatchNorm2d(channels)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        # --8<-- [start:head]
        size, equal = maps[0].shape[-2:], []  # (N, C, H/4, W/4) each
        for linear, x in zip(self.linear_projections, maps, strict=True):
            x = linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            equal.append(F.interpolate(x, size, mode="bilinear"))
        fused = self.linear_fuse(torch.cat(equal[::-1], dim=1))  # coarsest first
        fused = self.dropout(F.relu(self.batch_norm(fused)))  # (N, C, H/4, W/4)
        scores: Tensor = self.classifier(fused)  # (N, K, H/4, W/4)
        # --8<-- [end:head]
        return scores


class SegFormer(nn.Module):
    """Score patches of 4 x 4 pixels for every class; `enlarged` scores every pixel.

    Args:
        widths: D of each stage (B0: 32, 64, 160, 256).
        depths: blocks of each stage (B0: 2, 2, 2, 2).
        channels: of the decoder (B0: 256).
        num_classes: K.
        heads: of attention in each stage.
        reductions: r of each stage.
        drop_path: of the last block.
        dropout: before the last layer.
        in_channels: C, channels of the images.

    Shape: (N, C, H, W) -> (N, K, H/4, W/4), rounded up.
    Raises: ValueError as MixTransformer, and for a number below 1.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        channels: int,
        num_classes: int = 150,
        heads: Sequence[int] = (1, 2, 5, 8),
        reductions: Sequence[int] = (8, 4, 2, 1),
        drop_path: float = 0.1,
        dropout: float = 0.1,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if min(channels, num_classes, in_channels) < 1:
            told = f"{channels=}, {num_classes=}, {in_channels=}"
            raise ValueError(f"expected 1 or more, got {told}")
        self.segformer = MixTransformer(
            widths, depths, heads, reductions, drop_path, in_channels
        )
        self.decode_head = SegFormerHead(widths, channels, num_classes, dropout)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.decode_head(self.segformer(x))
        return scores


# --8<-- [start:enlarged]
def enlarged(scores: Tensor, size: Sequence[int]) -> Tensor:
    """Scores of every pixel: (N, K, h, w) -> (N, K, H, W); labels are their argmax."""
    return F.interpolate(scores, tuple(size), mode="bilinear")


def segformer_loss(scores: Tensor, masks: Tensor, ignore: int = 255) -> Tensor:
    """Mean cross-entropy of the pixels whose label in masks (N, H, W) is not `ignore`.

    It is NaN if there are none.
    """
    large = enlarged(scores, masks.shape[-2:])
    return F.cross_entropy(large, masks, ignore_index=ignore)


# --8<-- [end:enlarged]
B1_TO_B5 = (64, 128, 320, 512)  # widths


def segformer_b0(num_classes: int = 150) -> SegFormer:
    return SegFormer((32, 64, 160, 256), (2, 2, 2, 2), 256, num_classes)


def segformer_b1(num_classes: int = 150) -> SegFormer:
    return SegFormer(B1_TO_B5, (2, 2, 2, 2), 256, num_classes)


def segformer_b2(num_classes: int = 150) -> SegFormer:
    return SegFormer(B1_TO_B5, (3, 4, 6, 3), 768, num_classes)


def segformer_b3(num_classes: int = 150) -> SegFormer:
    return SegFormer(B1_TO_B5, (3, 4, 18, 3), 768, num_classes)


def segformer_b4(num_classes: int = 150) -> SegFormer:
    return SegFormer(B1_TO_B5, (3, 8, 27, 3), 768, num_classes)


def segformer_b5(num_classes: int = 150) -> SegFormer:
    return SegFormer(B1_TO_B5, (3, 6, 40, 3), 768, num_classes)


# --8<-- [end:module]
