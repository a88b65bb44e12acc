"""One plain training loop for every task: what differs is the loss.

The order of the images depends on (seed, epoch) alone, everything drawn for a batch on
(seed, epoch, step) alone: no draw depends on how many were made before it. A run can
therefore go on from any step, and how many processes load images changes nothing.
"""

import math
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Windows has no SIGHUP.
STOP_SIGNALS = [s for s in signal.Signals if s.name in ("SIGINT", "SIGTERM", "SIGHUP")]

Targets = Any  # a tensor, or a sequence with one entry an image
Loss = Callable[[nn.Module, Tensor, Targets], Tensor]
BatchTransform = Callable[[Tensor, Targets, torch.Generator], tuple[Tensor, Targets]]
Augment = Callable[[Tensor, Tensor], Tensor]


class Scheduler(Protocol):
    """Any scheduler of torch.optim.lr_scheduler."""

    def step(self) -> object: ...


class Source(Protocol):
    """Where batches come from: rows in, images and what they are out."""

    draws: int  # uniform numbers that an image needs to be augmented

    def __len__(self) -> int: ...

    def take(self, rows: Tensor, draws: Tensor) -> tuple[Tensor, Targets]:
        """The images of `rows` (N,), augmented by `draws` (N, draws) from [0, 1)."""
        ...


class AcceleratorLike(Protocol):
    """Where a step is computed, and how; an Accelerator of Accelerate is one."""

    device: torch.device
    num_processes: int
    process_index: int

    def autocast(self) -> AbstractContextManager[None]: ...
    def backward(self, loss: Tensor) -> None: ...
    def reduce(self, tensor: Tensor, reduction: str = "sum") -> Any: ...


# Makes one step: `loss()` computes the batch's loss, with its graph, and may be called
# several times; what comes back is not used. `one_step` is the usual one.
Update = Callable[
    [Callable[[], Tensor], torch.optim.Optimizer, AcceleratorLike], object
]


class BadData(Exception):
    """An image or a data set that cannot be used; the message says which and why."""


@dataclass
class SingleProcess:
    """One process, one device, full precision."""

    device: torch.device
    num_processes: int = 1
    process_index: int = 0

    def autocast(self) -> AbstractContextManager[None]:
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def reduce(self, tensor: Tensor, reduction: str = "sum") -> Tensor:
        return tensor


@dataclass
class InMemory:
    """Images that lie in memory, augmented a batch at a time.

    Args:
        inputs: (N, ...).
        targets: a tensor (N, ...) or a list of N, of which a batch is a shorter list.
        augment: `augment(images, draws)`, with draws (N, D) from [0, 1).
        draws: D.
    """

    inputs: Tensor
    targets: Targets
    augment: Augment | None = None
    draws: int = 0

    def __post_init__(self) -> None:
        if len(self.targets) != len(self.inputs) or len(self.inputs) == 0:
            raise ValueError(
                "need as many targets as inputs, "
                f"got {len(self.targets)} and {len(self.inputs)}"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Tensor, draws: Tensor) -> tuple[Tensor, Targets]:
        images = self.inputs.index_select(0, rows)  # four times as fast as [rows]
        if self.augment is not None:
            images = self.augment(images, draws)
        return images, _take(self.targets, rows)


@dataclass(frozen=True)
class Step:
    """What one step was: its place, and its loss."""

    epoch: int  # from 1
    step: int  # of the epoch, from 1
    steps: int  # in an epoch
    loss: float  # the mean over the batch
    images: int  # in the batch, of all processes

    @property
    def ends_epoch(self) -> bool:
        return self.step == self.steps


def cross_entropy(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The default loss, of logits (N, K) or (N, K, H, W).

    Targets are classes (N,) or (N, H, W), or probabilities of the logits' shape.
    """
    return F.cross_entropy(model(inputs), targets)


def one_step(
    loss: Callable[[], Tensor],
    optimizer: torch.optim.Optimizer,
    accelerator: AcceleratorLike,
) -> None:
    """One gradient, one step: what is done unless something else is asked for."""
    value = loss()
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(value)
    optimizer.step()


def to_train(model: nn.Module, epoch: int) -> None:
    """What happens before an epoch unless something else is asked for."""
    model.train()


def train_steps(
    model: nn.Module,
    source: Source,
    *,
    epochs: int,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
    loss: Loss = cross_entropy,
    schedule: Scheduler | None = None,
    batch_transform: BatchTransform | None = None,
    before_epoch: Callable[[nn.Module, int], object] = to_train,
    update: Update = one_step,
    seed: int = 0,
    accelerator: AcceleratorLike | None = None,
    workers: int = 0,
    start_step: int = 0,
) -> Iterator[Step]:
    """Train the model in place, and stop after every step to tell of it.

    What the caller does between two steps (saving, measuring, showing) is its own
    affair. Arguments as for `fit`, and:

    Args:
        before_epoch: called with the model and the epoch (from 1) before its first step,
            and before the first step that is made here.
        update: `update(loss, optimizer, accelerator)` makes a step of what `loss()` gives:
            clips gradients, adds up several batches, looks at a second point (SAM).
            The loss that is told of a step is that of the first call.
        accelerator: where and how; the model must be there. With P processes each takes
            every P-th image of a batch, and the mean is over the whole batch.
        workers: processes that load images; 0 loads between the steps.
        start_step: how many steps an earlier run has made already.

    Raises: FloatingPointError for a loss that is not finite, before it changes a weight;
    ValueError for an update that never asks for the loss.
    """
    accelerator = accelerator or SingleProcess(torch.device("cpu"))
    per_epoch = math.ceil(len(source) / batch_size)
    cuda = [accelerator.device] if accelerator.device.type == "cuda" else []
    on_cpu = accelerator.device.type == "cpu"
    # Seeding every kind of device costs as much as a small network's optimizer.
    seeded = torch.default_generator.manual_seed if on_cpu else torch.manual_seed
    with torch.random.fork_rng(devices=cuda):
        for epoch in range(start_step // per_epoch + 1, epochs + 1):
            before_epoch(model, epoch)
            first = max(start_step - (epoch - 1) * per_epoch, 0)
            batches = TrainingBatches(
                source, seed, epoch, batch_size, accelerator, first
            )
            # One process draws what it always drew; others have streams of their own.
            others = [2, rank] if (rank := accelerator.process_index) else []
            # All at once: between two steps each would take some times as long.
            seeds = [
                seed_of(seed, epoch, step, 1, *others)
                for step in range(first, per_epoch)
            ]
            for step, (x, y) in enumerate(load_batches(batches, workers), first):
                if batch_transform is not None:
                    draw = generator(seed, epoch, step, *others)
                    x, y = batch_transform(x, y, draw)
                # For the model's own draws.
                seeded(seeds[step - first])
                x = x.to(accelerator.device, non_blocking=True)
                y = _to(y, accelerator.device)
                size = batches.size(step)
                share = batches.share(step) * accelerator.num_processes / size
                batch_loss = BatchLoss(loss, model, x, y, accelerator, share)
                try:
                    update(batch_loss, optimizer, accelerator)
                except FloatingPointError as error:
                    rates = [group["lr"] for group in optimizer.param_groups]
                    raise FloatingPointError(
                        f"{error} in epoch {epoch}, step {step} "
                        f"(learning rates {rates}): lower the learning rate, "
                        "or look for a division by zero in the loss"
                    ) from None
                if not batch_loss.values:
                    raise ValueError(
                        f"{update} made a step without a loss: call loss()"
                    )
                # Scaled float16 gradients overflow now and then: no step was made.
                skipped = getattr(accelerator, "optimizer_step_was_skipped", False)
                if schedule is not None and not skipped:
                    schedule.step()
                yield Step(epoch, step + 1, per_epoch, batch_loss.values[0], size)


class BatchLoss:
    """The loss of one batch, which an update may ask for several times.

    Args:
        share: of this process in the mean over the batch, times the processes: gradients
            are averaged over them.

    Attributes:
        values: what it was, of all processes, each time.

    Raises: FloatingPointError for a loss that is not finite.
    """

    def __init__(
        self,
        loss: Loss,
        model: nn.Module,
        inputs: Tensor,
        targets: Targets,
        accelerator: AcceleratorLike,
        share: float = 1.0,
    ) -> None:
        self.loss, self.model, self.accelerator, self.share = (
            loss,
            model,
            accelerator,
            share,
        )
        self.inputs, self.targets = inputs, targets
        self.values: list[float] = []

    def __call__(self) -> Tensor:
        with self.accelerator.autocast():
            value = self.loss(self.model, self.inputs, self.targets)
        seen = value.detach()
        if self.accelerator.num_processes > 1:
            value = value * self.share
            seen = self.accelerator.reduce(value.detach(), "mean")
        self.values.append(seen.item())
        if not math.isfinite(self.values[-1]):
            raise FloatingPointError(f"the loss is {self.values[-1]}")
        return value


class TrainingBatches:
    """The batches of an epoch: which rows, and what is drawn for them."""

    def __init__(
        self,
        source: Source,
        seed: int,
        epoch: int,
        batch_size: int,
        accelerator: AcceleratorLike,
        first: int = 0,
    ) -> None:
        self.source, self.seed, self.epoch, self.first = source, seed, epoch, first
        self.rank, self.processes = accelerator.process_index, accelerator.num_processes
        order = torch.randperm(len(source), generator=generator(seed, epoch))
        self.batches = torch.split(order, batch_size)

    def size(self, step: int) -> int:
        return len(self.batches[step])

    def share(self, step: int) -> int:
        """How many images of the batch are this process's own."""
        return len(range(self.rank, self.size(step), self.processes))

    def __len__(self) -> int:
        return len(self.batches) - self.first

    def __getitem__(self, index: int) -> tuple[Tensor, Targets] | BadData:
        step = self.first + index
        rows = self.batches[step]
        draws = torch.empty(len(rows), 0, dtype=torch.float64)
        if self.source.draws:
            draw = generator(self.seed, self.epoch, step, 3)
            draws = torch.rand(
                len(rows), self.source.draws, dtype=torch.float64, generator=draw
            )
        if self.processes > 1:
            # A process without an image lends one, whose share of the loss is 0.
            own_rows = slice(self.rank if self.share(step) else 0, None, self.processes)
            rows, draws = rows[own_rows], draws[own_rows]
        try:
            return self.source.take(rows, draws)
        except BadData as error:  # a worker's exception would come with its traceback
            return error


class EvaluationBatches:
    """The batches of a test: all images, as they stand."""

    def __init__(
        self, source: Source, batch_size: int, accelerator: AcceleratorLike
    ) -> None:
        rows = torch.arange(
            accelerator.process_index, len(source), accelerator.num_processes
        )
        self.source, self.batches = source, torch.split(rows, batch_size)

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> tuple[Tensor, Targets] | BadData:
        rows = self.batches[index]
        try:
            return self.source.take(rows, torch.empty(len(rows), 0))
        except BadData as error:
            return error


def load_batches(
    planned: TrainingBatches | EvaluationBatches, workers: int
) -> Iterator[tuple[Tensor, Targets]]:
    """The batches of a plan, read by that many processes, or here for 0.

    Raises: BadData, of whichever process met it.
    """
    loaded: Iterable[Any] = (planned[index] for index in range(len(planned)))
    if workers:
        loaded = _Loader(
            planned,  # type: ignore[arg-type]
            batch_size=None,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=torch.cuda.is_available(),
            worker_init_fn=_quiet,
            generator=torch.Generator(),  # nothing may be drawn from the global one
        )
    for batch in loaded:
        if isinstance(batch, BadData):
            raise batch
        yield batch


class _Loader(torch.utils.data.DataLoader[Any]):
    """Whose processes no signal to stop ends while they are starting."""

    def __iter__(self) -> Any:
        with _stop_signals_held():
            return super().__iter__()


def _as_it_is(batch: Any) -> Any:
    return batch


def _quiet(worker: int) -> None:
    """Signals to stop are for the process that trains; its workers end with it."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)


@contextmanager
def _stop_signals_held() -> Iterator[None]:
    """For this thread and the processes that it starts; this one gets them afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def fit(
    model: nn.Module,
    data: tuple[Tensor, Targets],
    *,
    epochs: int,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
    loss: Loss = cross_entropy,
    schedule: Scheduler | None = None,
    batch_transform: BatchTransform | None = None,
    update: Update = one_step,
    evaluate: Callable[[nn.Module], dict[str, Any]] | None = None,
    after_epoch: Callable[[dict[str, Any]], object] | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> list[dict[str, Any]]:
    """Train the model in place, and tell of every epoch.

    Returns a dict for each epoch: "epoch" (from 1), "loss" (the mean), and what
    `evaluate` returned. The model comes back in evaluation mode, torch's global random
    state as it was.

    Args:
        data: inputs (N, ...) and their targets: a tensor (N, ...) or a list of N, of
            which a batch is a shorter list.
        batch_size: images a step; the last batch of an epoch holds what is left.
        optimizer: over the model's parameters.
        loss: `loss(model, inputs, targets)`, a scalar, the mean over the batch.
        schedule: stepped after every batch; `steps` says how many there will be.
        batch_transform: `batch_transform(inputs, targets, generator)` returns what the
            loss sees. It runs on the CPU and draws from the generator only.
        update: makes a step of the batch's loss; see `train_steps`.
        evaluate: called with the model after every epoch, in evaluation mode and
            without gradients.
        after_epoch: called with the epoch's entry, for what steps by a measure
            (ReduceLROnPlateau).
        seed: of the order, of `batch_transform` and of the model's own draws (dropout);
            not of its initial weights.

    Raises: ValueError for unequal lengths or numbers below 1; FloatingPointError for a
    loss that is not finite.
    """
    source = InMemory(*data)
    if epochs < 1 or batch_size < 1:
        raise ValueError(
            f"epochs and batch_size must be at least 1, got {epochs=}, {batch_size=}"
        )
    accelerator = SingleProcess(torch.device(device))
    model.to(accelerator.device)
    training = train_steps(
        model,
        source,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        loss=loss,
        schedule=schedule,
        batch_transform=batch_transform,
        update=update,
        seed=seed,
        accelerator=accelerator,
    )
    history, total = [], 0.0
    with closing(training):  # type: ignore[type-var]
        for step in training:
            total += step.loss * step.images
            if step.ends_epoch:
                model.eval()
                with torch.no_grad():
                    metrics = evaluate(model) if evaluate is not None else {}
                history.append(
                    {"epoch": step.epoch, "loss": total / len(source), **metrics}
                )
                total = 0.0
                if after_epoch is not None:
                    after_epoch(history[-1])
    return history


def steps(count: int, *, epochs: int, batch_size: int) -> int:
    """How many steps `fit` makes with `count` images; a schedule needs to know it."""
    return epochs * math.ceil(count / batch_size)


def predict(model: nn.Module, inputs: Tensor, batch_size: int = 256) -> Any:
    """The model's outputs in evaluation mode and without gradients.

    Runs on the model's device; every module gets its mode back.

    Returns a tensor on the CPU where the model returns tensors, one list where it
    returns lists (one entry an image).
    Raises: TypeError for other outputs.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            parts = [
                model(batch.to(device)) for batch in torch.split(inputs, batch_size)
            ]
    finally:
        for module, mode in modes.items():
            module.training = mode
    if all(isinstance(part, Tensor) for part in parts):
        return torch.cat(parts).cpu()
    if all(isinstance(part, list) for part in parts):
        return [_to(entry, torch.device("cpu")) for part in parts for entry in part]
    raise TypeError(
        f"the model must return a tensor or a list, got {type(parts[0]).__name__}"
    )


def accuracy(
    model: nn.Module, inputs: Tensor, targets: Tensor, batch_size: int = 256
) -> float:
    """The share of inputs, or pixels, whose largest logit (dim 1) is their target's."""
    right = predict(model, inputs, batch_size).argmax(dim=1) == targets.cpu()
    return float(right.double().mean())


def generator(*key: int) -> torch.Generator:
    """A CPU generator made from the key alone; other keys give unrelated streams."""
    return torch.Generator().manual_seed(seed_of(*key))


def seed_of(*key: int) -> int:
    """A seed, made from the key alone."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


def _take(targets: Targets, rows: Tensor) -> Targets:
    return (
        targets.index_select(0, rows)
        if isinstance(targets, Tensor)
        else [targets[row] for row in rows.tolist()]
    )


def _to(value: Any, device: torch.device) -> Any:
    """Tensors in lists, tuples and dicts, moved."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to(v, device) for key, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return type(value)(_to(v, device) for v in value)  # type: ignore[call-arg]
    return value
