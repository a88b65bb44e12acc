"""Blocks that weigh channels and places by what they see."""

from .bam import BAM as BAM
from .cbam import CBAM as CBAM
from .squeeze_and_excitation import SqueezeExcitation as SqueezeExcitation
