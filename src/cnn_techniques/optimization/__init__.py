"""How weights change: optimisers, and what keeps their steps right."""

from .adabelief import AdaBelief as AdaBelief
from .adam import Adam as Adam
from .adamw import AdamW as AdamW
from .lamb import LAMB as LAMB
from .lion import Lion as Lion
from .muon import Muon as Muon
from .muon import newton_schulz as newton_schulz
from .radam import RAdam as RAdam
from .radam import rectification as rectification
from .sam import SAM as SAM
from .sam import running_statistics_kept as running_statistics_kept
from .sgd_momentum import SGD as SGD
