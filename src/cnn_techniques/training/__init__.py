"""How a network is fed and what it is told."""

from .cosine_annealing import CosineAnnealing as CosineAnnealing
from .cosine_annealing import CosineWarmRestarts as CosineWarmRestarts
from .cosine_annealing import cosine_rate as cosine_rate
from .cutmix import CutMix as CutMix
from .cutmix import cutmix_batch as cutmix_batch
from .cutmix import cutmix_box as cutmix_box
from .cutout import Cutout as Cutout
from .cutout import RandomErasing as RandomErasing
from .cutout import erase_boxes as erase_boxes
from .cutout import erasing_size as erasing_size
from .dropblock import DropBlock as DropBlock
from .dropblock import centre_rate as centre_rate
from .dropblock import drop_blocks as drop_blocks
from .label_smoothing import smooth_labels as smooth_labels
from .label_smoothing import smoothed_cross_entropy as smoothed_cross_entropy
from .mixup import Mixup as Mixup
from .mixup import mixup_batch as mixup_batch
from .one_cycle import OneCycle as OneCycle
from .reduce_on_plateau import ReduceOnPlateau as ReduceOnPlateau
from .step_decay import MultiStepDecay as MultiStepDecay
from .step_decay import StepDecay as StepDecay
from .stochastic_depth import StochasticDepth as StochasticDepth
from .stochastic_depth import linear_drop_rates as linear_drop_rates
from .warmup import LinearWarmUp as LinearWarmUp
from .weight_ema import WeightEMA as WeightEMA
from .weight_ema import recompute_batch_norms as recompute_batch_norms
