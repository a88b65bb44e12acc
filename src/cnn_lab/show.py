"""What a run shows while it goes on: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from .fit import Step

if TYPE_CHECKING:
    from .recipe import Recipe
    from .sources import DataSet

Json = dict[str, Any]
ProgressCallback = Callable[[int, int], object]  # how many are done, of how many
MEASURES = {"accuracy": "accuracy", "ap": "AP", "mean_iou": "mean IoU"}
PARTS = {"train": "to learn from", "validation": "to choose by", "test": "to test"}
LISTED = 10  # classes that a summary names


class Show(Protocol):
    """Who is told of a run."""

    def note(self, text: str) -> None: ...
    def loading(self) -> AbstractContextManager[object]: ...
    def begin(
        self, recipe: "Recipe", data: "DataSet", step: int, per_epoch: int
    ) -> None: ...
    def step(self, step: Step) -> None: ...
    def tested(self, done: int, total: int) -> None: ...
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

    def note(self, text: str) -> None:
        pass

    def loading(self) -> AbstractContextManager[object]:
        return nullcontext()

    def begin(
        self, recipe: "Recipe", data: "DataSet", step: int, per_epoch: int
    ) -> None:
        pass

    def step(self, step: Step) -> None:
        pass

    def tested(self, done: int, total: int) -> None:
        pass

    def epoch(self, row: Json) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass


class Lines(Silent):
    """What there is to learn from, and a line for each epoch."""

    def note(self, text: str) -> None:
        print(text, flush=True)

    def begin(
        self, recipe: "Recipe", data: "DataSet", step: int, per_epoch: int
    ) -> None:
        self.note(summary(recipe.data, data))
        if step:
            self.note(f"going on after step {step}")
        self.epochs, self.images, self.start = recipe.epochs, 0, time.perf_counter()

    def step(self, step: Step) -> None:
        self.images += step.images

    def epoch(self, row: Json) -> None:
        speed = self.images / (time.perf_counter() - self.start)
        self.note(f"{epoch_line(row, self.epochs)}, {speed:.0f} images/s")
        self.images, self.start = 0, time.perf_counter()


class Bar(Lines):
    """A bar of all steps, with a line above it for each epoch; below it one of a test."""

    def __init__(self, console: Console) -> None:
        self.test: TaskID | None = None
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            console=console,
        )

    def note(self, text: str) -> None:
        self.progress.console.print(
            text, highlight=False, markup=False, emoji=False, soft_wrap=True
        )

    def loading(self) -> AbstractContextManager[object]:
        return self.progress.console.status("reading the data")

    def begin(
        self, recipe: "Recipe", data: "DataSet", step: int, per_epoch: int
    ) -> None:
        super().begin(recipe, data, 0, per_epoch)
        self.loss, self.measure = 0.0, "accuracy –"
        self.task = self.progress.add_task(
            f"epoch {step // per_epoch + 1}/{recipe.epochs}",
            total=recipe.epochs * per_epoch,
            completed=step,
            state="loss –",
        )

    def step(self, step: Step) -> None:
        super().step(step)
        # A running mean: one batch tells little.
        self.loss = step.loss if step.step == 1 else 0.9 * self.loss + 0.1 * step.loss
        speed = self.images / (time.perf_counter() - self.start)
        self.progress.update(
            self.task,
            advance=1,
            description=f"epoch {step.epoch}/{self.epochs}",
            state=f"loss {self.loss:.3f}  {self.measure} {speed:.0f} images/s",
        )

    def tested(self, done: int, total: int) -> None:
        if self.test is None:
            self.test = self.progress.add_task("testing", total=total, state="images")
        self.progress.update(self.test, completed=done)

    def epoch(self, row: Json) -> None:
        if self.test is not None:
            self.progress.remove_task(self.test)
            self.test = None
        name, value = measure_of(row)
        self.measure = f"{name.removeprefix('validation ')} {value:.1%}"
        self.note(epoch_line(row, self.epochs))
        self.images, self.start = 0, time.perf_counter()

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()


@contextmanager
def bar(what: str, stream: Any = None) -> Iterator[ProgressCallback | None]:
    """A bar of what is not a run, gone at its end; None where there is no terminal."""
    console = Console(file=stream or sys.stdout)
    if not console.is_terminal:
        yield None
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        TextColumn("{task.description}"), *columns, console=console, transient=True
    ) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def summary(name: str, data: "DataSet") -> str:
    """What there is to learn from: of photos the classes, of many those at the ends."""
    photos = data.names is not None
    totals = {part: sum(count) for part, count in data.counts.items()}
    totals = totals or {"train": len(data.train), "test": len(data.test)}
    known = [part for part in PARTS if part in totals]
    counts = [f"{totals[part]:,} {PARTS[part]}" for part in known]
    counts[0] = counts[0].replace(" ", " photos " if photos else " images ", 1)
    head = f"{name.removeprefix('folder:')}: {len(data.classes):,} classes"
    lines = [f"{head}, {', '.join(counts)}"]
    if photos and data.counts:
        lines += _classes(data)
    if data.other:
        by_count = sorted(data.other.items(), key=lambda item: (-item[1], item[0]))
        some = [f"{count:,} {ending or 'without ending'}" for ending, count in by_count]
        more = f" and {len(some) - 6} other endings" if len(some) > 6 else ""
        lines.append(f"left out, no photos: {', '.join(some[:6])}{more}")
    return "\n".join(lines)


def _classes(data: "DataSet") -> list[str]:
    """A line for each class; of many, for those with the most and the fewest photos."""
    order = list(range(len(data.classes)))
    if len(order) > LISTED:
        order.sort(key=lambda label: -sum(part[label] for part in data.counts.values()))
        order = [*order[: LISTED // 2], *order[LISTED // 2 - LISTED :]]
    width = max(len(data.classes[label]) for label in order)
    lines = []
    for label in order:
        counts = [
            f"{data.counts[part][label]:,} {purpose}"
            for part, purpose in PARTS.items()
            if part in data.counts
        ]
        lines.append(f"  {data.classes[label]:<{width}}  {', '.join(counts)}")
    if len(data.classes) > LISTED:
        left = len(data.classes) - LISTED
        lines.insert(LISTED // 2, f"  … {left:,} more, with as many or fewer")
    return lines


def epoch_line(row: Json, epochs: int) -> str:
    name, value = measure_of(row)
    return f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, {name} {value:.2%}"


def measure_of(row: Json) -> tuple[str, float]:
    """What an epoch is judged by, and its value; on validation images where there are some."""
    for prefix in ("validation ", ""):
        for key, name in MEASURES.items():
            if (found := prefix.replace(" ", "_") + key) in row:
                return prefix + name, float(row[found])
    raise KeyError(f"none of {', '.join(MEASURES)} in {', '.join(row)}")


def display_for(stream: Any = sys.stdout) -> Show:
    """A bar where the stream is a terminal, else lines."""
    console = Console(file=stream)
    return Bar(console) if console.is_terminal else Lines()
