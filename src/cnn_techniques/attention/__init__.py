"""Blocks that weigh channels and places by what they see."""

from .bam import BAM as BAM
from .cbam import CBAM as CBAM
from .coordinate_attention import CoordinateAttention as CoordinateAttention
from .efficient_channel_attention import (
    EfficientChannelAttention as EfficientChannelAttention,
)
from .efficient_channel_attention import eca_kernel_size as eca_kernel_size
from .global_context import GlobalContext as GlobalContext
from .multi_head_attention import MultiHeadAttention as MultiHeadAttention
from .multi_head_attention import SelfAttention2d as SelfAttention2d
from .multi_head_attention import dot_product_attention as dot_product_attention
from .non_local import NonLocal as NonLocal
from .selective_kernel import SelectiveKernel as SelectiveKernel
from .simam import SimAM as SimAM
from .squeeze_and_excitation import SqueezeExcitation as SqueezeExcitation
