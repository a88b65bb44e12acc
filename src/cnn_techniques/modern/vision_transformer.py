"""Vision Transformer: an image as a sequence of patches that attend to one another.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image
Recognition at Scale", ICLR 2021, arXiv:2010.11929, section 3.1, appendix A, table 1.
Legend: N images, C channels, H x W pixels, S patches and one class token,
D width, h heads, M width inside the MLP, K classes.
"""

# --8<-- [start:imports]
from collections import OrderedDict
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]
from cnn_techniques.attention.multi_head_attention import MultiHeadAttention


# --8<-- [start:module]
class EncoderBlock(nn.Module):
    """Self-attention mixes tokens, then an MLP mixes channels; each adds to its input.

    Args:
        width: D, entries of a token.
        heads: h, which must divide D.
        mlp_width: M, width inside the MLP.
        dropout: rate behind attention and both layers of the MLP.

    Shape: (N, S, D) -> (N, S, D).
    """

    def __init__(
        self, width: int, heads: int, mlp_width: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        # torch's function keeps no (S, S) weights; what it computes is the same.
        attend = F.scaled_dot_product_attention
        self.self_attention = MultiHeadAttention(width, heads, attend)
        self.dropout = nn.Dropout(dropout)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_width, width),
            nn.Dropout(dropout),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, z: Tensor) -> Tensor:
        z = self.dropout(self.self_attention(self.ln_1(z))) + z
        mixed: Tensor = self.mlp(self.ln_2(z)) + z
        return mixed


class _ViTEncoder(nn.Module):
    """Adds the position embeddings, then applies the blocks and a last norm."""

    def __init__(
        self, tokens: int, blocks: int, width: int, heads: int, mlp: int, drop: float
    ) -> None:
        super().__init__()
        self.pos_embedding = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.dropout = nn.Dropout(drop)
        names = [f"encoder_layer_{index}" for index in range(blocks)]
        self.layers = nn.Sequential(
            OrderedDict((n, EncoderBlock(width, heads, mlp, drop)) for n in names)
        )
        self.ln = nn.LayerNorm(width, eps=1e-6)

    def forward(self, z: Tensor) -> Tensor:
        y: Tensor = self.ln(self.layers(self.dropout(z + self.pos_embedding)))
        return y


class VisionTransformer(nn.Module):
    """Patches to tokens, blocks of a transformer, and a classifier on the class token.

    Args:
        patch_size: height and width of a patch, in pixels.
        layers: blocks (ViT-B: 12).
        heads: h, heads of attention in a block (ViT-B: 12).
        width: D (ViT-B: 768).
        mlp_width: M (ViT-B: 3072).
        num_classes: K, width of the output.
        image_size: height and width of every image, a multiple of the patch size.
        dropout: rate in the blocks and behind the position embeddings.
        in_channels: C, channels of the images.

    Shape: (N, C, H, W) -> (N, K), for H and W of `image_size` only.
    Raises: ValueError for impossible sizes, or an input of another shape.
    """

    def __init__(
        self,
        patch_size: int,
        layers: int,
        heads: int,
        width: int,
        mlp_width: int,
        num_classes: int = 1000,
        image_size: int = 224,
        dropout: float = 0.0,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if min(patch_size, layers, heads, mlp_width, num_classes, in_channels) < 1:
            sizes = f"{patch_size=}, {layers=}, {heads=}, {mlp_width=}, {num_classes=}"
            raise ValueError(f"must be at least 1, got {sizes}, {in_channels=}")
        if width < 1 or width % heads != 0:
            raise ValueError(f"width must be a multiple of {heads=}, got {width=}")
        if image_size < 1 or image_size % patch_size != 0:
            told = f"{patch_size=}, got {image_size=}"
            raise ValueError(f"image_size must be a multiple of {told}")
        self.expected = (in_channels, image_size, image_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.conv_proj = nn.Conv2d(in_channels, width, patch_size, stride=patch_size)
        tokens = (image_size // patch_size) ** 2 + 1
        self.encoder = _ViTEncoder(tokens, layers, width, heads, mlp_width, dropout)
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(width, num_classes)))
        fan_in = in_channels * patch_size**2
        nn.init.trunc_normal_(self.conv_proj.weight, std=fan_in**-0.5)

    def tokens(self, x: Tensor) -> Tensor:
        """What leaves the last block: the class token, then the patches row by row."""
        c, h, w = self.expected
        if x.ndim != 4 or x.shape[1] != c or x.shape[2] != h or x.shape[3] != w:
            raise ValueError(f"expected (N, {c}, {h}, {w}), got {tuple(x.shape)}")
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)  # (N, S, D)
        token = self.class_token.expand(x.shape[0], -1, -1)  # (N, 1, D)
        z: Tensor = self.encoder(torch.cat([token, patches], dim=1))  # (N, 1 + S, D)
        return z

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.heads(self.tokens(x)[:, 0])  # (N, K)
        return scores


def resize_positions(embedding: Tensor, side: int) -> Tensor:
    """Position embeddings for side x side patches, interpolated from a trained grid.

    Shape: (1, 1 + S, D) -> (1, 1 + side * side, D); section 3.2 of the paper.
    """
    token, grid = embedding[:, :1], embedding[:, 1:].transpose(1, 2)  # (1, D, S)
    image = grid.reshape(1, grid.shape[1], isqrt(grid.shape[2]), -1)
    image = F.interpolate(image, (side, side), mode="bicubic", align_corners=True)
    return torch.cat([token, image.flatten(2).transpose(1, 2)], dim=1)


def vit_b_16(num_classes: int = 1000, image_size: int = 224) -> VisionTransformer:
    """ViT-B/16."""
    return VisionTransformer(16, 12, 12, 768, 3072, num_classes, image_size)


def vit_b_32(num_classes: int = 1000, image_size: int = 224) -> VisionTransformer:
    """ViT-B/32."""
    return VisionTransformer(32, 12, 12, 768, 3072, num_classes, image_size)


def vit_l_16(num_classes: int = 1000, image_size: int = 224) -> VisionTransformer:
    """ViT-L/16."""
    return VisionTransformer(16, 24, 16, 1024, 4096, num_classes, image_size)


def vit_l_32(num_classes: int = 1000, image_size: int = 224) -> VisionTransformer:
    """ViT-L/32."""
    return VisionTransformer(32, 24, 16, 1024, 4096, num_classes, image_size)


def vit_h_14(num_classes: int = 1000, image_size: int = 224) -> VisionTransformer:
    """ViT-H/14."""
    return VisionTransformer(14, 32, 16, 1280, 5120, num_classes, image_size)


# --8<-- [end:module]
