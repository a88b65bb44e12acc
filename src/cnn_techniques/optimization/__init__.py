"""How weights change: optimisers, and what keeps their steps right."""

from .adamw import AdamW as AdamW
