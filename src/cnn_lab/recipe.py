"""How a network is trained: every choice in one place, as options of the command line.

Options have the names of the technique pages where a page says what they do.
"""

import dataclasses
import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from typer import Argument, Option

from cnn_techniques.training import CutMix, Mixup, smoothed_cross_entropy

from .augment import by_name
from .fit import BatchTransform, Loss
from .optimizers import OPTIMIZERS, Groups, decayed
from .options import Augmentation, Norm, Optimizer, Schedule
from .schedules import SCHEDULES, OnPlateau, warmed_up
from .sources import NAMES as DATA


class Precision(StrEnum):
    no = "no"
    bf16 = "bf16"
    fp16 = "fp16"


class Strategy(StrEnum):
    everything = "everything"
    features = "features"
    last_n = "last-n"
    gradual = "gradual"
    discriminative = "discriminative"


WHAT, HOW, FAST, START = "What", "How", "Speed", "Transfer"


@dataclass(frozen=True)
class Recipe:
    """All that decides what a run computes; two runs of one recipe are the same run."""

    network: Annotated[
        str,
        Argument(
            help="A network by its function name, or a call as in Python: "
            '"ResNet(BasicBlock, (1, 1, 1), width=16)". `cnn-lab list` names all. '
            "Or one of your own: package.module:function; page lab/own-network. "
            "Pages foundations/index, modern/index; blocks: attention/index."
        ),
    ]
    data: Annotated[
        str,
        Option(
            help=f"Data set: {', '.join(DATA)}, or package.module:function.",
            rich_help_panel=WHAT,
        ),
    ] = "digits"
    size: Annotated[
        int | None,
        Option(
            min=1,
            help="Height and width of the images; else those of the data set, "
            "32 for digits and 224 for a folder.",
            rich_help_panel=WHAT,
        ),
    ] = None
    epochs: Annotated[
        int, Option(min=1, help="Times through the data.", rich_help_panel=HOW)
    ] = 5
    batch_size: Annotated[
        int,
        Option(min=1, help="Images a step, of all processes.", rich_help_panel=HOW),
    ] = 64
    optimizer: Annotated[
        Optimizer,
        Option(help="Each has its page, optimization/NAME.", rich_help_panel=HOW),
    ] = Optimizer.adamw
    sam: Annotated[
        float,
        Option(
            min=0,
            help="Rho: the gradient is taken that far uphill, which doubles the time of a "
            "step; page optimization/sam. 0: off.",
            rich_help_panel=HOW,
        ),
    ] = 0.0
    learning_rate: Annotated[
        float, Option(min=0, help="The highest of the run.", rich_help_panel=HOW)
    ] = 1e-3
    weight_decay: Annotated[
        float,
        Option(
            min=0,
            help="Of matrices and filters; biases and norms have none.",
            rich_help_panel=HOW,
        ),
    ] = 0.01
    schedule: Annotated[
        Schedule,
        Option(
            help="Of the learning rate; each has its page, training/NAME.",
            rich_help_panel=HOW,
        ),
    ] = Schedule.one_cycle
    plateau_patience: Annotated[
        int,
        Option(
            min=0,
            help="Epochs without a gain that reduce-on-plateau accepts: on the images "
            "held out by --validate, else of the training loss.",
            rich_help_panel=HOW,
        ),
    ] = 10
    warmup: Annotated[
        float,
        Option(
            min=0,
            help="Epochs of rising learning rate before it; page training/warmup.",
            rich_help_panel=HOW,
        ),
    ] = 0.0
    augment: Annotated[
        str,
        Option(
            help=f"Some of {', '.join(Augmentation)}, with commas between; each has its "
            "page, training/NAME.",
            rich_help_panel=HOW,
        ),
    ] = ""
    mixup: Annotated[
        float,
        Option(min=0, help="Alpha; page training/mixup. 0: off.", rich_help_panel=HOW),
    ] = 0.0
    cutmix: Annotated[
        float,
        Option(min=0, help="Alpha; page training/cutmix. 0: off.", rich_help_panel=HOW),
    ] = 0.0
    label_smoothing: Annotated[
        float,
        Option(
            min=0,
            max=1,
            help="Share spread over all classes; page training/label-smoothing.",
            rich_help_panel=HOW,
        ),
    ] = 0.0
    norm: Annotated[
        Norm,
        Option(
            help="In place of the batch norms of the network; page optimization/NAME.",
            rich_help_panel=HOW,
        ),
    ] = Norm.network
    stochastic_depth: Annotated[
        float,
        Option(
            min=0,
            max=0.999999,
            help="Share of the steps in which an image misses the last residual branch; "
            "earlier ones less often. Page training/stochastic-depth. 0: off.",
            rich_help_panel=HOW,
        ),
    ] = 0.0
    dropblock: Annotated[
        float,
        Option(
            min=0,
            max=0.999999,
            help="About what share of the last two stages' feature maps is dropped; page "
            "training/dropblock. 0: off.",
            rich_help_panel=HOW,
        ),
    ] = 0.0
    weight_ema: Annotated[
        float,
        Option(
            min=0,
            max=0.999999,
            help="Decay of the mean of the weights, which is then tested and exported; "
            "page training/weight-ema. 0: off.",
            rich_help_panel=HOW,
        ),
    ] = 0.0
    clip: Annotated[
        float,
        Option(
            min=0,
            help="The largest norm of a step's gradient, to which longer ones are "
            "shortened; page optimization/gradient-accumulation-and-clipping. 0: off.",
            rich_help_panel=HOW,
        ),
    ] = 0.0
    accumulate: Annotated[
        int,
        Option(
            min=1,
            help="Parts that a batch is computed in, one after the other, to save memory; "
            "page optimization/gradient-accumulation-and-clipping.",
            rich_help_panel=FAST,
        ),
    ] = 1
    validate: Annotated[
        float,
        Option(
            min=0,
            max=0.9,
            help="Share of the training images that is held out: the best epoch is "
            "chosen by it, and tested once at the end. 0: off.",
            rich_help_panel=HOW,
        ),
    ] = 0.0
    patience: Annotated[
        int,
        Option(
            min=0,
            help="Stop after so many epochs without a better accuracy on the images "
            "held out by --validate. 0: never.",
            rich_help_panel=HOW,
        ),
    ] = 0
    mixed_precision: Annotated[
        Precision,
        Option(
            help="Page optimization/mixed-precision. fp16 needs a GPU.",
            rich_help_panel=FAST,
        ),
    ] = Precision.no
    channels_last: Annotated[
        bool,
        Option(
            "--channels-last",
            help="Keep the channels of a pixel side by side.",
            rich_help_panel=FAST,
        ),
    ] = False
    compile: Annotated[
        bool,
        Option("--compile", help="torch.compile the network.", rich_help_panel=FAST),
    ] = False
    deterministic: Annotated[
        bool,
        Option(
            "--deterministic",
            help="Refuse operations that are not the same twice (GPU).",
            rich_help_panel=FAST,
        ),
    ] = False
    seed: Annotated[
        int,
        Option(min=0, help="Of weights, order and augmentation.", rich_help_panel=HOW),
    ] = 0
    strategy: Annotated[
        Strategy,
        Option(
            help="What is trained: everything; the classifier on frozen features; "
            "the classifier and the last n blocks; one more block each epoch (gradual); "
            "everything, with lower rates towards the image (discriminative). Pages "
            "training/feature-extraction, training/fine-tuning.",
            rich_help_panel=START,
        ),
    ] = Strategy.everything
    weights: Annotated[
        str,
        Option(
            help="Where to start: a checkpoint or a file of weights; 'imagenet': the "
            "published ones.",
            rich_help_panel=START,
        ),
    ] = ""
    last: Annotated[
        int, Option(min=1, help="The n of last-n.", rich_help_panel=START)
    ] = 1
    decay: Annotated[
        float,
        Option(
            min=0,
            max=1,
            help="Of the learning rate from a block to the one before it "
            "(discriminative).",
            rich_help_panel=START,
        ),
    ] = 0.8

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} is {value}, expected a finite number")
        for field in dataclasses.fields(self):  # from Python; a command has told it
            value, option = getattr(self, field.name), field.type.__metadata__[0]  # type: ignore[union-attr]
            least, most = option.min, option.max
            if value is not None and (
                (least is not None and value < least)
                or (most is not None and value > most)
            ):
                expected = f"at least {least}" if most is None else f"{least} to {most}"
                raise ValueError(f"{field.name} is {value}, expected {expected}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}, expected 0 to 2**63 - 1")
        _known(self, "optimizer", Optimizer)
        _known(self, "schedule", Schedule)
        _known(self, "norm", Norm)
        by_name(self.augmentations)  # ValueError for an unknown one
        make_mix(self, 2)  # ValueError for an alpha that cannot be
        if self.mixup and self.cutmix:
            raise ValueError(
                f"mixup ({self.mixup}) and cutmix ({self.cutmix}) cannot be combined"
            )
        if self.sam and self.mixed_precision == Precision.fp16:
            raise ValueError(
                f"sam ({self.sam}) takes two gradients of a step, which fp16 would scale "
                "as one: expected mixed precision bf16 or no"
            )
        if self.sam and self.norm == Norm.batch_normalization:
            raise ValueError(
                f"sam ({self.sam}) keeps the averages of torch's batch norms from its "
                f"second pass, not those of norm {self.norm}: expected norm network"
            )
        if self.patience and not self.validate:
            raise ValueError(
                f"patience ({self.patience}) needs images to judge by: hold some out, "
                "such as validate 0.1"
            )
        if self.warmup and self.schedule == Schedule.one_cycle:
            raise ValueError("one-cycle has a warm-up of its own: leave out warmup")
        if self.warmup >= self.epochs:
            raise ValueError(
                f"warmup ({self.warmup}) must be less than epochs ({self.epochs})"
            )

    @property
    def augmentations(self) -> list[str]:
        return [name.strip() for name in self.augment.split(",") if name.strip()]

    @property
    def regularizers(self) -> dict[str, float]:
        """The rates of what drops parts of the network, by the names of the pages."""
        return {"stochastic-depth": self.stochastic_depth, "dropblock": self.dropblock}

    def to_json(self) -> dict[str, Any]:
        """What JSON can hold, and `Recipe(**...)` takes."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


def _known(recipe: Recipe, name: str, kind: type[StrEnum]) -> None:
    """ValueError for a value that is none of those of `kind`."""
    value = getattr(recipe, name)
    if value not in list(kind):
        raise ValueError(f"unknown {name} {value!r}; expected {', '.join(kind)}")


@dataclass(frozen=True)
class Settings:
    """What a run needs and its result does not depend on.

    Args:
        root: where torchvision's loaders find their files.
        download: let torchvision fetch them.
        workers: processes that load images; None: as many as there are cores, up to 8,
            for images in files, and none for images in memory.
        save_every: steps between checkpoints; 0: at the end of each epoch.
        track: a tracker of Accelerate, such as "tensorboard".
    """

    root: Path = Path("data")
    download: bool = False
    workers: int | None = None
    save_every: int = 0
    track: str = ""


def make_optimizer(recipe: Recipe, groups: Groups) -> torch.optim.Optimizer:
    """Over groups of parameters, each with "params" and maybe its own "lr"."""
    make = OPTIMIZERS[recipe.optimizer]
    return make(decayed(groups, recipe.weight_decay), recipe.learning_rate)


def make_schedule(
    recipe: Recipe, optimizer: torch.optim.Optimizer, per_epoch: int
) -> lr_scheduler.LRScheduler | OnPlateau:
    """Stepped after every batch; each group keeps its ratio to the others."""
    total = recipe.epochs * per_epoch
    warm = min(round(recipe.warmup * per_epoch), total - 1)
    rates = warmed_up(SCHEDULES[recipe.schedule], optimizer, total, warm)
    if recipe.schedule == Schedule.reduce_on_plateau:
        return OnPlateau(optimizer, rates, warm, recipe.plateau_patience)
    return rates


def make_loss(recipe: Recipe) -> Loss:
    """Cross-entropy; of auxiliary classifiers too, with weight 0.3 (GoogLeNet, section 5)."""

    def loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        out = model(inputs)
        first, *others = out if isinstance(out, tuple) else (out,)
        value = smoothed_cross_entropy(first, targets, recipe.label_smoothing)
        for scores in others:
            if scores is not None:
                auxiliary = smoothed_cross_entropy(
                    scores, targets, recipe.label_smoothing
                )
                value = value + 0.3 * auxiliary
        return value

    return loss


def make_mix(recipe: Recipe, classes: int) -> BatchTransform | None:
    """Mixup or CutMix, drawn from the generator of the step."""
    if not recipe.mixup and not recipe.cutmix:
        return None
    mix: Mixup | CutMix = (
        Mixup(classes, recipe.mixup) if recipe.mixup else CutMix(classes, recipe.cutmix)
    )

    def transform(x: Tensor, y: Any, draw: torch.Generator) -> tuple[Tensor, Any]:
        # Both draw from the global generator, on the CPU.
        torch.default_generator.manual_seed(draw.initial_seed())
        return mix(x, y)

    return transform
