"""Which option of `cnn-lab train` is which technique of this site.

An option, or its value, has the name of the technique's page. Needs no torch, so that the
pages can be made from it.
"""

from enum import StrEnum


class Optimizer(StrEnum):
    sgd_momentum = "sgd-momentum"
    adam = "adam"
    adamw = "adamw"
    radam = "radam"
    lamb = "lamb"
    adabelief = "adabelief"
    lion = "lion"
    muon = "muon"


class Schedule(StrEnum):
    constant = "constant"
    step_decay = "step-decay"
    cosine_annealing = "cosine-annealing"
    one_cycle = "one-cycle"
    reduce_on_plateau = "reduce-on-plateau"


class Augmentation(StrEnum):
    basic_augmentation = "basic-augmentation"
    cutout = "cutout"
    autoaugment = "autoaugment"
    randaugment = "randaugment"
    trivialaugment = "trivialaugment"
    augmix = "augmix"


class Norm(StrEnum):
    network = "network"  # the norms that it has
    batch_normalization = "batch-normalization"
    group_and_layer_normalization = "group-and-layer-normalization"


# Slug of a page -> how the command is told to use it, with a usual value.
OPTIONS: dict[str, str] = {
    **{f"optimization/{name}": f"--optimizer {name}" for name in Optimizer},
    "optimization/sam": "--sam 0.05",
    **{
        f"training/{name}": f"--schedule {name}"
        for name in Schedule
        if name != Schedule.constant
    },
    "training/warmup": "--warmup 1",
    **{f"training/{name}": f"--augment {name}" for name in Augmentation},
    "training/mixup": "--mixup 0.2",
    "training/cutmix": "--cutmix 1",
    "training/label-smoothing": "--label-smoothing 0.1",
    **{
        f"optimization/{name}": f"--norm {name}"
        for name in Norm
        if name != Norm.network
    },
    "training/stochastic-depth": "--stochastic-depth 0.2",
    "training/dropblock": "--dropblock 0.1",
    "training/weight-ema": "--weight-ema 0.999",
    "optimization/gradient-accumulation-and-clipping": "--accumulate 4 --clip 1",
    "optimization/mixed-precision": "--mixed-precision bf16",
    "training/feature-extraction": "--strategy features",
    "training/fine-tuning": "--strategy discriminative",
}
# These need weights to begin from, which `cnn-lab transfer` has and `train` is told.
OF_TRANSFER = ("training/feature-extraction", "training/fine-tuning")
# Techniques of the same categories that no option names, and why.
NO_OPTION: dict[str, str] = {
    "training/image-operations": "what the automatic policies are made of",
    "training/medical-augmentation": "image and mask move together; a class is no mask",
    "training/satellite-augmentation": "for more than three bands, masks and boxes",
    "training/domain-adaptation": "needs images of a second domain, without labels",
    "training/progressive-resizing": "the images of a run have one size",
    "optimization/data-parallel": "how the command is started; page lab/many-processes",
}
