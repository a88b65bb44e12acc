"""What a run shows while it goes on: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from .fit import Step

if TYPE_CHECKING:
    from .recipe import Recipe
    from .sources import DataSet

Json = dict[str, Any]


class Show(Protocol):
    """Who is told of a run."""

    def begin(
        self, recipe: "Recipe", data: "DataSet", done: int, per_epoch: int
    ) -> None: ...
    def step(self, step: Step) -> None: ...
    def epoch(self, row: Json) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Silent:
    """Nothing is shown."""

    def begin(
        self, recipe: "Recipe", data: "DataSet", done: int, per_epoch: int
    ) -> None:
        pass

    def step(self, step: Step) -> None:
        pass

    def epoch(self, row: Json) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *told: object) -> None:
        pass


class Lines(Silent):
    """A line for each epoch."""

    def begin(
        self, recipe: "Recipe", data: "DataSet", done: int, per_epoch: int
    ) -> None:
        self.epochs, self.images, self.start = recipe.epochs, 0, time.perf_counter()
        if done:
            print(f"going on after step {done}", flush=True)

    def step(self, step: Step) -> None:
        self.images += step.images

    def epoch(self, row: Json) -> None:
        speed = self.images / (time.perf_counter() - self.start)
        print(f"{told(row, self.epochs)}, {speed:.0f} images/s", flush=True)
        self.images, self.start = 0, time.perf_counter()


class Bar(Lines):
    """A bar of all steps, with a line above it for each epoch."""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  accuracy {task.fields[accuracy]}"),
            TextColumn("{task.fields[speed]} images/s"),
            TimeRemainingColumn(),
            console=console,
        )

    def begin(
        self, recipe: "Recipe", data: "DataSet", done: int, per_epoch: int
    ) -> None:
        super().begin(recipe, data, 0, per_epoch)
        self.task = self.progress.add_task(
            "",
            total=recipe.epochs * per_epoch,
            completed=done,
            epoch=f"{done // per_epoch + 1}/{recipe.epochs}",
            loss="–",
            accuracy="–",
            speed="–",
        )
        self.loss = 0.0

    def step(self, step: Step) -> None:
        super().step(step)
        # A running mean: one batch tells little.
        self.loss = step.loss if step.step == 1 else 0.9 * self.loss + 0.1 * step.loss
        speed = self.images / (time.perf_counter() - self.start)
        self.progress.update(
            self.task,
            advance=1,
            epoch=f"{step.epoch}/{self.epochs}",
            loss=f"{self.loss:.3f}",
            speed=f"{speed:.0f}",
        )

    def epoch(self, row: Json) -> None:
        self.progress.update(self.task, accuracy=f"{accuracy_of(row):.1%}")
        self.progress.console.print(told(row, self.epochs), highlight=False)
        self.images, self.start = 0, time.perf_counter()

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *told: object) -> None:
        self.progress.stop()


def told(row: Json, epochs: int) -> str:
    part = "validation " if "validation_accuracy" in row else ""
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, "
        f"{part}accuracy {accuracy_of(row):.2%}"
    )


def accuracy_of(row: Json) -> float:
    """After an epoch: on the validation images where there are some, else the test part."""
    validated = "validation_accuracy" in row
    return float(row["validation_accuracy" if validated else "accuracy"])


def on(stream: Any = sys.stdout) -> Show:
    """A bar where the stream is a terminal, else lines."""
    console = Console(file=stream)
    return Bar(console) if console.is_terminal else Lines()
