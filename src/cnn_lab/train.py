"""A run: a recipe carried out, saved on the way, and continued where it stopped.

A folder holds `config.json` (the options), `last.safetensors` (the checkpoint) and,
once the run has ended, `result.json`.
"""

import json
import math
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import accelerate
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.optim import lr_scheduler, swa_utils

from . import checkpoint, networks, transfer
from .checkpoint import NotACheckpoint
from .fit import BatchTransform, InMemory, InOrder, Machine, Source, loaded, walk
from .recipe import (
    Precision,
    Recipe,
    make_loss,
    make_mix,
    make_optimizer,
    make_schedule,
)
from .record import environment
from .show import Show, Silent
from .sources import DataSet, open_data

Json = dict[str, Any]
LAST, CONFIG, RESULT = "last.safetensors", "config.json", "result.json"


class Refused(Exception):
    """What is asked for cannot be done; the message says why."""


class Stopped(Exception):
    """The run was told to stop, and was saved before."""


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


@dataclass
class Run:
    """What changes while a run goes on."""

    model: nn.Module  # as floor 1 made it
    ready: nn.Module  # as it is called: maybe wrapped for several processes
    optimizer: torch.optim.Optimizer
    schedule: lr_scheduler.LRScheduler
    mean: swa_utils.AveragedModel | None
    done: int = 0  # steps
    total: float = 0.0  # losses of the epoch that has begun, times their images
    history: list[Json] = field(default_factory=list)

    @property
    def tested(self) -> nn.Module:
        """What is tested and exported: the mean of the weights where there is one."""
        return self.mean.module if self.mean is not None else self.model


def train(
    recipe: Recipe,
    folder: Path,
    settings: Settings | None = None,
    *,
    resume: bool = False,
    show: Show | None = None,
) -> Json:
    """Carry out a recipe, and return its result.

    Args:
        folder: where the run is kept; made if it is not there.
        resume: go on with the run that the folder holds.

    Raises: Refused for a folder that holds another run; BadData, NotACheckpoint,
    FloatingPointError and OSError with messages of one line; Stopped after SIGINT or
    SIGTERM, with the run saved.
    """
    settings, show = settings or Settings(), show or Silent()
    found = _found(recipe, folder, resume)
    if found is not None and (folder / RESULT).exists():
        return json.loads((folder / RESULT).read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    machine = _machine(recipe, settings, folder)
    with _interrupts(machine) as told, _deterministic(recipe.deterministic):
        torch.manual_seed(recipe.seed)
        model, data = prepared(recipe, settings)
        run = _begin(recipe, model, data, machine)
        if found is not None:
            _restore(run, found, machine, folder / LAST)
        elif machine.is_main_process:
            _write(folder / CONFIG, {**recipe.to_json(), **_kept(settings)})
        seconds = -time.perf_counter()
        try:
            _walk(run, recipe, data, folder, settings, machine, show, told)
        except RuntimeError as error:
            if machine.num_processes == 1 or not _broken(error):
                raise
            raise Refused(
                f"another process has ended: {_first(error)}. This one stops; "
                f"{_how_to_go_on(folder)}"
            ) from None
        seconds += time.perf_counter()
        result = {
            **run.history[-1],
            "images": len(data.test),
            "curve": [row["loss"] for row in run.history],
            "seconds": round(seconds, 1),
            "environment": environment(str(machine.device)),
        }
        if machine.is_main_process:
            _write(folder / RESULT, result)
        machine.end_training()
        return result


def prepared(recipe: Recipe, settings: Settings) -> tuple[nn.Module, DataSet]:
    """The network with its first weights, and the data as it wants them."""
    with torch.device("meta"):
        channels = networks.channels(networks.build(recipe.network, 10))
    start = transfer.start(recipe)
    data = open_data(
        recipe.data,
        start.look(channels, recipe.size),
        root=settings.root,
        augment=recipe.augmentations,
        download=settings.download,
    )
    model = networks.build(recipe.network, len(data.classes))
    model.to(torch.get_default_dtype())
    start.into(model)
    return model, data


def _found(recipe: Recipe, folder: Path, resume: bool) -> Json | None:
    """The state to go on from; Refused where that is not what was asked for."""
    path = folder / LAST
    if not resume:
        if path.exists() or (folder / CONFIG).exists():
            raise Refused(
                f"{folder} holds a run already: go on with --resume {folder}, "
                "or choose another folder with --out"
            )
        return None
    if not path.exists() and (folder / CONFIG).exists():
        return None  # stopped before its first checkpoint
    state = checkpoint.load(path)
    given, saved = recipe.to_json(), state["recipe"]
    for name, value in given.items():
        if saved.get(name) != value:
            raise Refused(
                f"{path} is of a run with {name} {saved.get(name)!r}, not {value!r}"
            )
    return state


def _machine(
    recipe: Recipe, settings: Settings, folder: Path
) -> accelerate.Accelerator:
    if recipe.mixed_precision == Precision.fp16 and not torch.cuda.is_available():
        raise Refused("mixed precision fp16 needs a GPU; bf16 runs on a CPU too")
    if settings.track:
        _has_tracker(settings.track)
    AcceleratorState._reset_state()  # of a run before this one in the same process
    machine = accelerate.Accelerator(
        mixed_precision=str(recipe.mixed_precision),
        log_with=settings.track or None,
        project_dir=folder,
        # A network may have parts that one batch does not reach.
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                find_unused_parameters=transfer.partly(recipe)
            )
        ],
    )
    if settings.track:
        options = {k: v for k, v in recipe.to_json().items() if v is not None}
        machine.init_trackers(settings.track, config=options)
    return machine


def _has_tracker(name: str) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted(str(tracker) for tracker in LOGGER_TYPE_TO_CLASS)
    if name not in known:
        raise Refused(f"unknown tracker {name!r}; expected {', '.join(known)}")
    if name not in [str(tracker) for tracker in get_available_trackers()]:
        package = {"comet_ml": "comet-ml"}.get(name, name)
        raise Refused(f"--track {name} needs a package: pip install {package}")


def _begin(
    recipe: Recipe, model: nn.Module, data: DataSet, machine: accelerate.Accelerator
) -> Run:
    model.to(machine.device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    if recipe.compile:
        model.compile()
    mean = None
    if recipe.weight_ema:
        average = swa_utils.get_ema_multi_avg_fn(recipe.weight_ema)
        mean = swa_utils.AveragedModel(model, multi_avg_fn=average)
    optimizer = make_optimizer(recipe, transfer.groups(model, recipe))
    per_epoch = math.ceil(len(data.train) / recipe.batch_size)
    schedule = make_schedule(recipe, optimizer, per_epoch)
    ready, stepped = machine.prepare(model, optimizer)
    return Run(model, ready, stepped, schedule, mean)


def _walk(
    run: Run,
    recipe: Recipe,
    data: DataSet,
    folder: Path,
    settings: Settings,
    machine: accelerate.Accelerator,
    show: Show,
    told: "_Told",
) -> None:
    per_epoch = math.ceil(len(data.train) / recipe.batch_size)
    workers = _workers(settings, data)
    steps = walk(
        run.ready,
        data.train,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        optimizer=run.optimizer,
        loss=make_loss(recipe),
        schedule=run.schedule,
        batch_transform=_transform(recipe, len(data.classes)),
        before_epoch=lambda model, epoch: transfer.before_epoch(
            run.model, recipe, epoch
        ),
        seed=recipe.seed,
        machine=machine,
        workers=workers,
        done=run.done,
    )
    show.begin(recipe, data, run.done, per_epoch)
    with closing(steps), show:  # type: ignore[type-var]
        for step in steps:
            if run.mean is not None:
                run.mean.update_parameters(run.model)
            run.done += 1
            run.total += step.loss * step.images
            show.step(step)
            if settings.track:
                rate = run.optimizer.param_groups[0]["lr"]
                machine.log({"loss": step.loss, "learning_rate": rate}, step=run.done)
            if step.ends_epoch:
                right = accuracy(run.tested, data.test, machine, workers)
                row = {
                    "epoch": step.epoch,
                    "loss": run.total / len(data.train),
                    "accuracy": right,
                }
                run.history.append(row)
                run.total = 0.0
                show.epoch(row)
                if settings.track:
                    machine.log({"accuracy": right}, step=run.done)
            every = settings.save_every
            stop = told.stop()
            if step.ends_epoch or stop or (every and run.done % every == 0):
                _save(run, recipe, data, machine, folder)
            if stop and run.done < recipe.epochs * per_epoch:
                raise Stopped(
                    f"stopped after {run.done} steps, all of which are saved; "
                    f"{_how_to_go_on(folder)}"
                )


def _transform(recipe: Recipe, classes: int) -> BatchTransform | None:
    mix = make_mix(recipe, classes)
    if not recipe.channels_last:
        return mix

    def transform(x: Tensor, y: Any, draw: torch.Generator) -> tuple[Tensor, Any]:
        if mix is not None:
            x, y = mix(x, y, draw)
        return x.contiguous(memory_format=torch.channels_last), y

    return transform


def _workers(settings: Settings, data: DataSet) -> int:
    if settings.workers is not None:
        return settings.workers
    return 0 if isinstance(data.train, InMemory) else min(os.cpu_count() or 1, 8)


def scores(
    model: nn.Module, source: Source, machine: Machine, workers: int = 0
) -> tuple[Tensor, Tensor]:
    """The scores and classes of this process's share, in evaluation mode, on the CPU.

    Every module gets its mode back.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    outputs, targets = [], []
    try:
        with torch.no_grad():
            for x, y in loaded(InOrder(source, 256, machine), workers):
                with machine.autocast():
                    outputs.append(model(x.to(machine.device)).float().cpu())
                targets.append(y)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(outputs), torch.cat(targets)


def accuracy(
    model: nn.Module, source: Source, machine: Machine, workers: int = 0
) -> float:
    """The share of all images whose largest score is their class's."""
    found, truth = scores(model, source, machine, workers)
    right = (found.argmax(dim=1) == truth).sum().to(machine.device)
    return int(machine.reduce(right)) / len(source)


# --- what is kept --------------------------------------------------------------------


def _save(
    run: Run,
    recipe: Recipe,
    data: DataSet,
    machine: accelerate.Accelerator,
    folder: Path,
) -> None:
    if not machine.is_main_process:
        return
    checkpoint.save(
        folder / LAST,
        {
            "recipe": recipe.to_json(),
            "classes": data.classes,
            "mean": list(data.mean),
            "std": list(data.std),
            "size": data.size,
            "done": run.done,
            "total": run.total,
            "history": run.history,
            "model": run.model.state_dict(),
            "weight_ema": run.mean.state_dict() if run.mean is not None else None,
            "optimizer": run.optimizer.state_dict(),
            "schedule": run.schedule.state_dict(),
            "scaler": machine.scaler.state_dict() if machine.scaler else None,
        },
    )


def _restore(
    run: Run, state: Json, machine: accelerate.Accelerator, path: Path
) -> None:
    try:
        run.model.load_state_dict(state["model"])
        if run.mean is not None:
            run.mean.load_state_dict(state["weight_ema"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.schedule.load_state_dict(state["schedule"])
        if machine.scaler:
            machine.scaler.load_state_dict(state["scaler"])
        run.done, run.total = state["done"], state["total"]
        run.history = state["history"]
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise NotACheckpoint(f"{path} is of another network: {_first(error)}") from None


def _kept(settings: Settings) -> Json:
    return {
        "root": str(settings.root),
        "workers": settings.workers,
        "save_every": settings.save_every,
        "track": settings.track,
    }


def _write(path: Path, content: Json) -> None:
    """JSON that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)


# --- what may happen on the way ------------------------------------------------------


class _Told:
    """Whether any of the processes was told to stop."""

    def __init__(self, machine: accelerate.Accelerator) -> None:
        self.machine, self.flag = machine, False

    def stop(self) -> bool:
        if self.machine.num_processes == 1:
            return self.flag
        flag = torch.tensor(float(self.flag), device=self.machine.device)
        return bool(self.machine.reduce(flag) > 0)


@contextmanager
def _interrupts(machine: accelerate.Accelerator) -> Iterator[_Told]:
    """SIGINT and SIGTERM wait for the end of the step; a second one does not."""
    told = _Told(machine)
    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    kept = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def tell(number: int, frame: object) -> None:
        told.flag = True
        signal.signal(number, kept[signal.Signals(number)])

    for number in kept:
        signal.signal(number, tell)
    try:
        yield told
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextmanager
def _deterministic(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _broken(error: RuntimeError) -> bool:
    """Whether this is how the loss of another process shows itself."""
    words = ("connection", "gloo", "nccl", "peer", "timed out", "socket")
    return any(word in str(error).lower() for word in words)


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _how_to_go_on(folder: Path) -> str:
    return f"go on with: cnn-lab train --resume {folder}"
