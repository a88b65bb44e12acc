"""Where a network starts from, and which of its parts are trained."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from .recipe import Recipe, Strategy
from .sources import Look, Statistics


@dataclass(frozen=True)
class Start:
    """The first weights of a network, and how its images have to look for them."""

    mean: Statistics | None = None
    std: Statistics | None = None
    size: int | None = None
    state: dict[str, Any] | None = None

    def look(self, channels: int, size: int | None) -> Look:
        return Look(channels, size or self.size, self.mean, self.std)

    def into(self, model: nn.Module) -> None:
        """Give the model these weights; the classifier keeps its own."""


def start(recipe: Recipe) -> Start:
    return Start()


def partly(recipe: Recipe) -> bool:
    """Whether some parameters get no gradient."""
    return recipe.strategy != Strategy.everything


def groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    return [{"params": list(model.parameters())}]


def before_epoch(model: nn.Module, recipe: Recipe, epoch: int) -> None:
    model.train()
