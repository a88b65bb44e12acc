"""How weights change: optimisers, and what keeps their steps right."""

from .adamw import AdamW as AdamW
from .batch_normalization import BatchNorm2d as BatchNorm2d
from .gradient_accumulation_and_clipping import (
    accumulate_gradients as accumulate_gradients,
)
from .gradient_accumulation_and_clipping import (
    clip_gradient_norm as clip_gradient_norm,
)
from .gradient_accumulation_and_clipping import gradient_norm as gradient_norm
from .group_and_layer_normalization import GroupNorm as GroupNorm
from .group_and_layer_normalization import LayerNorm as LayerNorm
from .group_and_layer_normalization import LayerNorm2d as LayerNorm2d
