"""How a network is fed and what it is told."""

from .cosine_annealing import CosineAnnealing as CosineAnnealing
from .cosine_annealing import CosineWarmRestarts as CosineWarmRestarts
from .cosine_annealing import cosine_rate as cosine_rate
from .mixup import Mixup as Mixup
from .mixup import mixup_batch as mixup_batch
from .one_cycle import OneCycle as OneCycle
from .reduce_on_plateau import ReduceOnPlateau as ReduceOnPlateau
from .step_decay import MultiStepDecay as MultiStepDecay
from .step_decay import StepDecay as StepDecay
from .warmup import LinearWarmUp as LinearWarmUp
