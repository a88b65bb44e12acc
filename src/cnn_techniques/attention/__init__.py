"""Blocks that weigh channels and places by what they see."""

from .squeeze_and_excitation import SqueezeExcitation as SqueezeExcitation
