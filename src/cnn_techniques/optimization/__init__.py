"""optimization"""

from .adamw import AdamW as AdamW
