"""A run: a recipe carried out, saved on the way, and continued where it stopped.

A folder holds `config.json` (the options), `last.safetensors` (the checkpoint), for
photos `photos.json` (which are learnt from, which are held out), where images are held
out for validation `best.safetensors` (the weights that did best on them) and, once the
run has ended, `result.json`.
"""

import json
import math
import os
import re
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import accelerate
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, distributed, nn
from torch.optim import lr_scheduler, swa_utils

from . import checkpoint, networks, own, transfer
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
from .show import Show, Silent, Told
from .sources import DataSet, Names, changes, open_data
from .update import make_update

Json = dict[str, Any]
LAST, CONFIG, RESULT = "last.safetensors", "config.json", "result.json"
BEST = "best.safetensors"
PHOTOS = "photos.json"


# A process that loads images may end while it hands one over.
CUT_OFF = (ConnectionResetError, ConnectionRefusedError, EOFError)


class Refused(Exception):
    """What is asked for cannot be done; the message says why."""


class Stopped(Exception):
    """The run was told to stop by a signal, and was saved before."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


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
    untested: Json | None = None  # the row of an epoch whose testing failed
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
    model: nn.Module | None = None,
    data: Any = None,
) -> Json:
    """Carry out a recipe, and return its result.

    Args:
        folder: where the run is kept; made if it is not there.
        resume: go on with the run that the folder holds.
        model: trained in place, instead of the one that the recipe names, which is then
            its name for readers. Scores (N, K), or a tuple of which they are the first.
        data: `own.Datasets` or a pair (train, test), instead of the recipe's.

    Raises: Refused for a folder that holds another run; BadData, NotACheckpoint,
    FloatingPointError and OSError with messages of one line; Stopped after SIGINT,
    SIGTERM or SIGHUP, with the run saved.
    """
    settings, show = settings or Settings(), show or Silent()
    if model is not None:
        recipe = replace(recipe, network=f"{own.GIVEN}: {recipe.network}")
    if data is not None:
        recipe = replace(recipe, data=own.GIVEN)
    found = _found(recipe, folder, resume)
    if found is not None and (folder / RESULT).exists():
        return json.loads((folder / RESULT).read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    machine = _machine(recipe, settings, folder, found["done"] if found else 0)
    show = show if machine.is_main_process else Silent()
    with ExitStack() as stack:
        stack.enter_context(_deterministic(recipe.deterministic))
        torch.manual_seed(recipe.seed)
        model, data = prepared(recipe, settings, model, data, show)
        run = _begin(recipe, model, data, machine)
        if found is not None:
            _same_data(found, data, folder)
            _restore(run, found, machine, folder / LAST)
        if machine.is_main_process:
            stack.enter_context(_alone(folder))
        if machine.is_main_process and found is None:
            write(folder / CONFIG, {**recipe.to_json(), **_kept(settings)})
            if data.names is not None:
                write(folder / PHOTOS, asdict(data.names))
        begun, seconds, work = run.done, -time.perf_counter(), -_processor_seconds()
        try:
            with _interrupts(machine) as told:
                _walk(run, recipe, data, folder, settings, machine, show, told)
                row = _last_word(run, data, folder, machine, settings)
        except (RuntimeError, *CUT_OFF) as error:
            if _out_of_memory(error):
                raise Refused(
                    f"no memory is left ({_first(error)}): lower --batch-size or --size"
                ) from None
            if recipe.deterministic and "deterministic implementation" in str(error):
                raise Refused(f"--deterministic: {_first(error)}") from None
            if not _broken(error, machine.num_processes):
                raise
            raise Refused(
                f"another process has ended ({_reason(error)}), so this one stops; "
                f"{_how_to_go_on(folder)}"
            ) from None
        seconds += time.perf_counter()
        work += _processor_seconds()
        result = {
            **row,
            "images": len(data.test),
            **({"validation_images": len(data.validation)} if data.validation else {}),
            "history": run.history,
            "curve": [row["loss"] for row in run.history],
            "seconds": round(seconds, 3),
            "processor_seconds": round(work, 2),
            "steps": run.done - begun,  # in these seconds: not those before a stop
            "steps_per_epoch": run.done // len(run.history),
            "environment": environment(str(machine.device)),
        }
        if machine.is_main_process:
            write(folder / RESULT, result)
        machine.end_training()
        return result


def rehearse(
    recipe: Recipe,
    folder: Path,
    settings: Settings,
    *,
    resume: bool = False,
    show: Show | None = None,
) -> DataSet:
    """All that a run does before its first step, without writing anything.

    Returns the data. Raises: as `train` does before the first step.
    """
    state = _found(recipe, folder, resume)
    possible(recipe)
    if settings.track:
        _has_tracker(settings.track)
    with torch.random.fork_rng(devices=[]):
        _, data = prepared(recipe, settings, show=show)
    if state is not None:
        _same_data(state, data, folder)
    return data


def prepared(
    recipe: Recipe,
    settings: Settings,
    model: nn.Module | None = None,
    data: Any = None,
    show: Show | None = None,
) -> tuple[nn.Module, DataSet]:
    """The network with its first weights, and the data as it wants them.

    Args:
        model, data: instead of those that the recipe names; see `train`.
    """
    show = show or Silent()
    if data is None and own.is_code(recipe.data):
        data = own.datasets(recipe.data)
    with show.loading():
        start = transfer.start(recipe)
    if data is not None:
        for name, value in (("size", recipe.size), ("augment", recipe.augment)):
            if value:
                raise ValueError(
                    f"{name} ({value}) is not for data of one's own, whose transforms "
                    "decide it"
                )
        found = own.data_set(data, recipe.validate)
        if settings.workers:
            own.can_be_sent(found.train)
    else:
        outline = model or networks.outline(recipe.network, 10)
        with show.loading():
            found = open_data(
                recipe.data,
                start.look(networks.channels(outline), recipe.size),
                root=settings.root,
                augment=recipe.augmentations,
                validate=recipe.validate,
                download=settings.download,
            )
    if model is None:
        model = networks.build(recipe.network, len(found.classes))
    model.to(torch.get_default_dtype())
    start.into(model, found.classes)
    if start.told:
        show.note(f"weights of {start.origin}: {start.told}")
    _check(model, recipe, found)
    return model, found


def _check(model: nn.Module, recipe: Recipe, data: DataSet) -> None:
    """ValueError unless the model can be trained on the smallest batch of an epoch."""
    batch = min(len(data.train) % recipe.batch_size or recipe.batch_size, 2)
    shape = (batch, *data.image)
    mine = own.is_own(recipe.network)
    failed: Exception | None = None
    for device in ("meta", "cpu"):  # what cannot be done without numbers is done with
        try:
            tried = deepcopy(model).to(device)
            transfer.before_epoch(tried, recipe, 1)
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                out = tried(torch.zeros(shape, device=device))
            break
        except Exception as error:
            if not mine and not isinstance(error, RuntimeError | ValueError):
                raise
            failed = error
    else:
        assert failed is not None
        told = own.where(failed) if mine else _first(failed)
        raise ValueError(
            f"{recipe.network} cannot be trained with a batch of shape {shape}: {told}"
        ) from (failed if mine else None)
    if not mine:
        return
    scores, wanted = (
        out[0] if isinstance(out, tuple) else out,
        (batch, len(data.classes)),
    )
    if not isinstance(scores, Tensor) or tuple(scores.shape) != wanted:
        got = (
            tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        )
        raise ValueError(
            f"{recipe.network} gives {got} for a batch of shape {shape}, expected "
            f"scores {wanted}: one for each of the {len(data.classes)} classes"
        )


def _found(recipe: Recipe, folder: Path, resume: bool) -> Json | None:
    """The state to go on from; Refused where that is not what was asked for."""
    path = folder / LAST
    if not resume:
        if path.exists() or (folder / CONFIG).exists():
            raise Refused(
                f"{folder} holds a run already: go on with "
                f"--resume {shlex.quote(str(folder))}, "
                "or choose another folder with --out"
            )
        return None
    if not path.exists() and (folder / CONFIG).exists():
        return None  # stopped before its first checkpoint
    state = checkpoint.load(path)
    given, saved = recipe.to_json(), dict(state.get("recipe", {}))
    # A run that was made before there was such an option did without.
    saved = {**{f.name: f.default for f in fields(Recipe)}, **saved}
    for name, value in given.items():
        if saved[name] != value:
            raise Refused(
                f"{path} is of a run with {name} {saved[name]!r}, not {value!r}"
            )
    if recipe.validate and state["history"]:
        checkpoint.load(folder / BEST)  # needed at the end: told now
    return state


def _machine(
    recipe: Recipe, settings: Settings, folder: Path, done: int
) -> accelerate.Accelerator:
    possible(recipe)
    if settings.track:
        _has_tracker(settings.track)
    AcceleratorState._reset_state()  # of a run before this one in the same process
    machine = accelerate.Accelerator(
        # Without a GPU, Accelerate joins processes only where it is told of the CPU.
        cpu="WORLD_SIZE" in os.environ and not torch.cuda.is_available(),
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
        # A run that was killed has told of steps that are now made again.
        again = {"tensorboard": {"purge_step": done + 1}}
        machine.init_trackers(settings.track, config=options, init_kwargs=again)
    return machine


def possible(recipe: Recipe) -> None:
    """Refused for what this machine cannot do."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise Refused(
            "cnn-lab's runs need POSIX (fcntl), which this machine does not have: train "
            "on Linux, macOS or WSL; evaluate, export, predict and list work here"
        ) from None
    if recipe.mixed_precision == Precision.fp16 and not torch.cuda.is_available():
        raise Refused("mixed precision fp16 needs a GPU; bf16 runs on a CPU too")


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
        # Batch norms' statistics too: today's do not fit the weights of the mean.
        mean = swa_utils.AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    optimizer = make_optimizer(recipe, transfer.groups(model, recipe))
    per_epoch = math.ceil(len(data.train) / recipe.batch_size)
    schedule = make_schedule(recipe, optimizer, per_epoch)
    ready, stepped = machine.prepare(model), optimizer
    if machine.scaler:  # else its wrapper looks for an optimizer library at every step
        stepped = machine.prepare(optimizer)
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
    workers = workers_for(settings, data)
    steps = walk(
        run.ready,
        data.train,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        optimizer=run.optimizer,
        loss=make_loss(recipe),
        schedule=run.schedule,
        batch_transform=_transform(recipe, len(data.classes)),
        update=make_update(recipe),
        before_epoch=lambda model, epoch: transfer.before_epoch(
            run.model, recipe, epoch
        ),
        seed=recipe.seed,
        machine=machine,
        workers=workers,
        done=run.done,
    )
    show.begin(recipe, data, run.done, per_epoch)
    part, prefix = data.test, ""
    if data.validation is not None:  # the test part waits until the end
        part, prefix = data.validation, "validation_"

    def test(row: Json) -> None:
        """The epoch's last word; an epoch whose testing fails is kept, and tested later."""
        run.untested = row
        try:
            found = accuracies(run.tested, part, machine, workers, show.tested)
        except BaseException:
            _save(run, recipe, data, machine, folder)
            raise
        run.history.append({**row, **{prefix + k: v for k, v in found.items()}})
        run.untested, run.total = None, 0.0
        # Before the checkpoint: a run that is killed between them does this epoch again.
        if data.validation is not None and best(run.history) is run.history[-1]:
            _save(run, recipe, data, machine, folder, BEST)

    with closing(steps), show:  # type: ignore[type-var]
        if run.untested is not None:
            test(run.untested)
            _save(run, recipe, data, machine, folder)
            show.epoch(run.history[-1])
        if _no_better(run.history, recipe.patience):
            return
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
                _same_buffers(run.tested, machine)
                test({"epoch": step.epoch, "loss": run.total / len(data.train)})
            every = settings.save_every
            stop = told.stop()
            if step.ends_epoch or stop or (every and run.done % every == 0):
                _save(run, recipe, data, machine, folder)
            if step.ends_epoch:  # after the saving: a terminal may be gone
                show.epoch(run.history[-1])
                if settings.track:
                    name = f"{prefix}accuracy"
                    machine.log({name: run.history[-1][name]}, step=run.done)
                if _no_better(run.history, recipe.patience):
                    return
            if stop and run.done < recipe.epochs * per_epoch:
                raise Stopped(
                    f"stopped after {run.done} steps, all of which are saved; "
                    f"{_how_to_go_on(folder)}",
                    told.number or signal.SIGINT,
                )


def best(history: list[Json]) -> Json:
    """The epoch that did best on the validation images; of equals the earliest."""
    return max(history, key=lambda row: row["validation_accuracy"])


def _no_better(history: list[Json], patience: int) -> bool:
    """Whether the best epoch is that many epochs ago."""
    if not patience or not history:
        return False
    return int(history[-1]["epoch"] - best(history)["epoch"]) >= patience


def _last_word(
    run: Run,
    data: DataSet,
    folder: Path,
    machine: accelerate.Accelerator,
    settings: Settings,
) -> Json:
    """The last epoch; where there are validation images the best one, tested here."""
    if data.validation is None:
        return run.history[-1]
    machine.wait_for_everyone()  # the first process writes the file that all read
    state = checkpoint.load(folder / BEST)
    _weights(run, state, folder / BEST)
    workers = workers_for(settings, data)
    return {
        **state["history"][-1],
        **accuracies(run.tested, data.test, machine, workers),
    }


def _same_buffers(model: nn.Module, machine: accelerate.Accelerator) -> None:
    """Give all processes the buffers of the first one, which are those that are saved.

    Each has taken batch statistics of its own images.
    """
    if machine.num_processes > 1:
        for buffer in model.buffers():
            distributed.broadcast(buffer, 0)


def _transform(recipe: Recipe, classes: int) -> BatchTransform | None:
    mix = make_mix(recipe, classes)
    if not recipe.channels_last:
        return mix

    def transform(x: Tensor, y: Any, draw: torch.Generator) -> tuple[Tensor, Any]:
        if mix is not None:
            x, y = mix(x, y, draw)
        return x.contiguous(memory_format=torch.channels_last), y

    return transform


def workers_for(settings: Settings, data: DataSet) -> int:
    """How many processes load images."""
    if not hasattr(signal, "SIGHUP"):  # which they are told to ignore
        return 0
    if settings.workers is not None:
        return settings.workers
    here = isinstance(data.train, InMemory | own.Items)  # torch's default too
    return 0 if here else min(os.cpu_count() or 1, 8)


def scores(
    model: nn.Module,
    source: Source,
    machine: Machine,
    workers: int = 0,
    told: Told | None = None,
) -> tuple[Tensor, Tensor]:
    """The scores and classes of this process's share, in evaluation mode, on the CPU.

    Every module gets its mode back. `told(done, total)` is called before the first batch
    and after each, with the images of this share.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    outputs, targets = [], []
    plan, done = InOrder(source, 256, machine), 0
    total = sum(map(len, plan.batches))
    if told is not None:
        told(0, total)
    try:
        with torch.no_grad():
            for x, y in loaded(plan, workers):
                with machine.autocast():
                    outputs.append(model(x.to(machine.device)).float().cpu())
                targets.append(y)
                done += len(y)
                if told is not None:
                    told(done, total)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(outputs), torch.cat(targets)


def accuracies(
    model: nn.Module,
    source: Source,
    machine: Machine,
    workers: int = 0,
    told: Told | None = None,
) -> dict[str, float]:
    """The share of all images whose largest score is their class's: "accuracy".

    With more than 5 classes also "top5", of those whose class is among the 5 largest.
    """
    found, truth = scores(model, source, machine, workers, told)
    rights = {"accuracy": found.argmax(dim=1) == truth}
    if found.shape[1] > 5:
        rights["top5"] = (found.topk(5).indices == truth[:, None]).any(dim=1)
    counts = torch.stack([right.sum() for right in rights.values()])
    counts = machine.reduce(counts.to(machine.device))
    return {k: n / len(source) for k, n in zip(rights, counts.tolist(), strict=True)}


def accuracy(
    model: nn.Module,
    source: Source,
    machine: Machine,
    workers: int = 0,
) -> float:
    """The share of all images whose largest score is their class's."""
    return accuracies(model, source, machine, workers)["accuracy"]


# --- what is kept --------------------------------------------------------------------


def _save(
    run: Run,
    recipe: Recipe,
    data: DataSet,
    machine: accelerate.Accelerator,
    folder: Path,
    name: str = LAST,
) -> None:
    """Write a checkpoint; `BEST` is not gone on from, and has no optimizer's state."""
    if not machine.is_main_process:
        return
    checkpoint.save(
        folder / name,
        {
            "recipe": recipe.to_json(),
            "classes": data.classes,
            "mean": list(data.mean),
            "std": list(data.std),
            "size": data.size,
            "images": len(data.train),
            "digest": data.digest,
            "done": run.done,
            "total": run.total,
            "untested": run.untested,
            "history": run.history,
            "model": run.model.state_dict(),
            "weight_ema": run.mean.state_dict() if run.mean is not None else None,
            **(_to_go_on(run, machine) if name == LAST else {}),
        },
    )


def _to_go_on(run: Run, machine: accelerate.Accelerator) -> Json:
    return {
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "scaler": machine.scaler.state_dict() if machine.scaler else None,
    }


def _same_data(state: Json, data: DataSet, folder: Path) -> None:
    """Refused, saying what has changed, unless the images are those of the run."""
    told = ""
    for name, now in (("classes", data.classes), ("images", len(data.train))):
        if state.get(name, now) != now:
            told = f"{name} {state[name]}, now {now}"
    if not told and state.get("digest", data.digest) != data.digest:
        told = "as many images, but not the same"
    if not told:
        return
    then = names_then(folder)
    if then is not None and data.names is not None:
        told = changes(then, data.names.all()) or told
    raise Refused(
        f"{folder / LAST} is of a run on other data: {told}; go on with those of then, "
        "or begin anew with --out"
    )


def names_then(folder: Path) -> Names | None:
    """The photos of a run; None where its folder does not tell."""
    try:
        return Names(**json.loads((folder / PHOTOS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _restore(
    run: Run, state: Json, machine: accelerate.Accelerator, path: Path
) -> None:
    _weights(run, state, path)
    try:
        run.optimizer.load_state_dict(state["optimizer"])
        run.schedule.load_state_dict(state["schedule"])
        if machine.scaler:
            machine.scaler.load_state_dict(state["scaler"])
        run.done, run.total = state["done"], state["total"]
        run.history = state["history"]
        run.untested = state.get("untested")
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise NotACheckpoint(f"{path} is of another network: {_first(error)}") from None


def _weights(run: Run, state: Json, path: Path) -> None:
    try:
        run.model.load_state_dict(state["model"])
        if run.mean is not None:
            run.mean.load_state_dict(state["weight_ema"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise NotACheckpoint(f"{path} is of another network: {_first(error)}") from None


def _kept(settings: Settings) -> Json:
    return {
        "root": str(settings.root),
        "workers": settings.workers,
        "save_every": settings.save_every,
        "track": settings.track,
    }


def _processor_seconds() -> float:
    """Of this process and of those that it has seen end, such as loading ones."""
    return sum(os.times()[:4])


def write(path: Path, content: Json) -> None:
    """JSON that is there whole or not at all."""
    checkpoint.write(path, (json.dumps(content, indent=1) + "\n").encode())


# --- what may happen on the way ------------------------------------------------------


class _Told:
    """Whether any of the processes was told to stop, and by which signal this one."""

    def __init__(self, machine: accelerate.Accelerator) -> None:
        self.machine, self.number = machine, 0

    def stop(self) -> bool:
        if self.machine.num_processes == 1:
            return self.number > 0
        flag = torch.tensor(float(self.number), device=self.machine.device)
        return bool(self.machine.reduce(flag) > 0)


@contextmanager
def _interrupts(machine: accelerate.Accelerator) -> Iterator[_Told]:
    """Signals to stop wait for the end of the step; a second of its kind does not.

    One that is ignored stays so: nohup, or a shell's background.
    """
    told = _Told(machine)
    if threading.current_thread() is not threading.main_thread():
        yield told
        return
    stopping = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    kept = {s: signal.getsignal(s) for s in stopping}
    kept = {s: handler for s, handler in kept.items() if handler != signal.SIG_IGN}

    def tell(number: int, frame: object) -> None:
        told.number = number
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


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a folder from other runs until the process ends, however it ends.

    The processes that load images have no part in a lock of this kind.
    """
    import fcntl  # not on Windows

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise Refused(f"another process is at work in {folder}") from None
        except OSError:
            pass  # a file system without locks
        yield


def _out_of_memory(error: Exception) -> bool:
    on_cpu = "can't allocate memory" in str(error)
    return on_cpu or isinstance(error, torch.OutOfMemoryError)


def _broken(error: Exception, processes: int) -> bool:
    """Whether this is how the loss of another process shows itself."""
    if "DataLoader worker" in str(error) or isinstance(error, CUT_OFF):
        return True
    if processes == 1:
        return False
    words = ("connection", "gloo", "nccl", "peer", "timed out", "socket")
    return any(word in str(error).lower() for word in words)


def _first(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _reason(error: Exception) -> str:
    """Without the line of the library's source, and its guesses."""
    return re.sub(r"^\[[^]]*\] ", "", _first(error)).split(". ")[0]


def _how_to_go_on(folder: Path) -> str:
    return f"go on with: cnn-lab train --resume {shlex.quote(str(folder))}"
