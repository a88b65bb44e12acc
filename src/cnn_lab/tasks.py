"""What a run is to learn: to name the class of an image, to find objects, to label pixels.

All else of a run (steps, checkpoints, stopping and going on) is the same for all.
"""

from typing import Any, Protocol

from torch import nn

from .fit import AcceleratorLike, Loss, Source
from .prepare import prepared
from .recipe import Recipe, Settings, make_loss
from .scores import accuracies
from .show import ProgressCallback, Show
from .sources import DataSet


class Task(Protocol):
    """What differs between runs of one task and of another.

    Args:
        command: of `cnn-lab`, which carries out such runs.
        measure: what `test` gives that a run is judged by.
    """

    command: str
    measure: str

    def prepared(
        self,
        recipe: Recipe,
        settings: Settings,
        model: nn.Module | None = None,
        data: Any = None,
        show: Show | None = None,
    ) -> tuple[nn.Module, DataSet]:
        """The network with its first weights, tried on a batch, and the data."""
        ...

    def loss(self, recipe: Recipe) -> Loss:
        """Of a batch."""
        ...

    def test(
        self,
        model: nn.Module,
        source: Source,
        accelerator: AcceleratorLike,
        workers: int = 0,
        progress: ProgressCallback | None = None,
    ) -> dict[str, float]:
        """How well the model does on all images of a source."""
        ...


class Classify:
    """One class for each image."""

    command, measure = "train", "accuracy"

    def prepared(
        self,
        recipe: Recipe,
        settings: Settings,
        model: nn.Module | None = None,
        data: Any = None,
        show: Show | None = None,
    ) -> tuple[nn.Module, DataSet]:
        return prepared(recipe, settings, model, data, show)

    def loss(self, recipe: Recipe) -> Loss:
        return make_loss(recipe)

    def test(
        self,
        model: nn.Module,
        source: Source,
        accelerator: AcceleratorLike,
        workers: int = 0,
        progress: ProgressCallback | None = None,
    ) -> dict[str, float]:
        return accuracies(model, source, accelerator, workers, progress)


CLASSIFY = Classify()
