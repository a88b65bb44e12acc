"""How weights change: optimisers, and what keeps their steps right."""

from .adabelief import AdaBelief as AdaBelief
from .adam import Adam as Adam
from .adamw import AdamW as AdamW
from .batch_normalization import BatchNorm2d as BatchNorm2d
from .data_parallel import average_gradients as average_gradients
from .data_parallel import copy_from_first as copy_from_first
from .data_parallel import own_share as own_share
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
from .lamb import LAMB as LAMB
from .lion import Lion as Lion
from .mixed_precision import LossScaler as LossScaler
from .muon import Muon as Muon
from .muon import newton_schulz as newton_schulz
from .radam import RAdam as RAdam
from .radam import rectification as rectification
from .sam import SAM as SAM
from .sam import running_statistics_kept as running_statistics_kept
from .sgd_momentum import SGD as SGD
