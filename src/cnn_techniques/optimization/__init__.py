"""How weights change: optimisers, and what keeps their steps right."""

from .adabelief import AdaBelief as AdaBelief
from .adam import Adam as Adam
from .adamw import AdamW as AdamW
from .lamb import LAMB as LAMB
from .lion import Lion as Lion
from .radam import RAdam as RAdam
from .radam import rectification as rectification
from .sgd_momentum import SGD as SGD
