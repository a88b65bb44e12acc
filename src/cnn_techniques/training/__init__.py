"""How a network is fed and what it is told."""

from .cosine_annealing import CosineAnnealing as CosineAnnealing
from .cosine_annealing import CosineWarmRestarts as CosineWarmRestarts
from .cosine_annealing import cosine_rate as cosine_rate
from .mixup import Mixup as Mixup
from .mixup import mixup_batch as mixup_batch
