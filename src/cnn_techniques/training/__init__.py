"""How a network is fed and what it is told."""

from .mixup import Mixup as Mixup
from .mixup import mixup_batch as mixup_batch
