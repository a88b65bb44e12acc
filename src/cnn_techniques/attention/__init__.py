"""Blocks that weigh channels and places by what they see."""

from .global_context import GlobalContext as GlobalContext
from .multi_head_attention import MultiHeadAttention as MultiHeadAttention
from .multi_head_attention import SelfAttention2d as SelfAttention2d
from .multi_head_attention import dot_product_attention as dot_product_attention
from .non_local import NonLocal as NonLocal
from .squeeze_and_excitation import SqueezeExcitation as SqueezeExcitation
