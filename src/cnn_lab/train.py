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
from .fit import (
    AcceleratorLike,
    BatchTransform,
    EvaluationBatches,
    InMemory,
    Source,
    load_batches,
    train_steps,
)
from .recipe import (
    Precision,
    Recipe,
    make_loss,
    make_mix,
    make_optimizer,
    make_schedule,
)
from .record import environment
from .show import ProgressCallback, Show, Silent
from .sources import DataSet, PhotoNames, open_data, photo_changes
from .update import make_update

Json = dict[str, Any]
LAST, CONFIG, RESULT = "last.safetensors", "config.json", "result.json"
BEST = "best.safetensors"
PHOTOS = "photos.json"


# Seen here where a process that loads images ends while it hands one over.
CONNECTION_LOST = (ConnectionResetError, ConnectionRefusedError, EOFError)


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
    wrapped_model: nn.Module  # as it is called: maybe wrapped for several processes
    optimizer: torch.optim.Optimizer
    schedule: lr_scheduler.LRScheduler
    ema_model: swa_utils.AveragedModel | None
    step: int = 0  # how many were made
    loss_sum: float = 0.0  # losses of the epoch that has begun, times their images
    untested: Json | None = None  # the row of an epoch whose testing failed
    history: list[Json] = field(default_factory=list)

    @property
    def tested_model(self) -> nn.Module:
        """What is tested and exported: the mean of the weights where there is one."""
        return self.ema_model.module if self.ema_model is not None else self.model


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
    saved = _saved_state(recipe, folder, resume)
    if saved is not None and (folder / RESULT).exists():
        return json.loads((folder / RESULT).read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    accelerator = _accelerator(recipe, settings, folder, saved["done"] if saved else 0)
    show = show if accelerator.is_main_process else Silent()
    with ExitStack() as stack:
        stack.enter_context(deterministic(recipe.deterministic))
        torch.manual_seed(recipe.seed)
        model, data = prepared(recipe, settings, model, data, show)
        run = _make_run(recipe, model, data, accelerator)
        if saved is not None:
            _check_same_data(saved, data, folder)
            _restore(run, saved, accelerator, folder / LAST)
        if accelerator.is_main_process:
            stack.enter_context(folder_lock(folder))
        if accelerator.is_main_process and saved is None:
            write_json(
                folder / CONFIG, {**recipe.to_json(), **_settings_json(settings)}
            )
            if data.names is not None:
                write_json(folder / PHOTOS, asdict(data.names))
        begun, seconds, work = run.step, -time.perf_counter(), -_processor_seconds()
        try:
            with stop_signals(accelerator) as stop_request:
                _train_epochs(
                    run, recipe, data, folder, settings, accelerator, show, stop_request
                )
                row = _final_row(run, data, folder, accelerator, settings)
        except (RuntimeError, *CONNECTION_LOST) as error:
            if out_of_memory(error):
                raise Refused(
                    f"no memory is left ({one_line(error)}): lower --batch-size or --size"
                ) from None
            if recipe.deterministic and "deterministic implementation" in str(error):
                raise Refused(f"--deterministic: {one_line(error)}") from None
            if not process_lost(error, accelerator.num_processes):
                raise
            raise Refused(
                f"another process has ended ({short_reason(error)}), so this one stops; "
                f"{resume_hint(folder)}"
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
            "steps": run.step - begun,  # in these seconds: not those before a stop
            "steps_per_epoch": run.step // len(run.history),
            "environment": environment(str(accelerator.device)),
        }
        if accelerator.is_main_process:
            write_json(folder / RESULT, result)
        accelerator.end_training()
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
    saved = _saved_state(recipe, folder, resume)
    check_supported(recipe)
    if settings.track:
        _has_tracker(settings.track)
    with torch.random.fork_rng(devices=[]):
        _, data = prepared(recipe, settings, show=show)
    if saved is not None:
        _check_same_data(saved, data, folder)
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
        initial = transfer.initial_weights(recipe)
    if data is not None:
        for name, value in (("size", recipe.size), ("augment", recipe.augment)):
            if value:
                raise ValueError(
                    f"{name} ({value}) is not for data of one's own, whose transforms "
                    "decide it"
                )
        data_set = own.data_set(data, recipe.validate)
        if settings.workers:
            own.can_be_sent(data_set.train)
    else:
        outline = model or networks.outline(recipe.network, 10)
        with show.loading():
            data_set = open_data(
                recipe.data,
                initial.input_format(networks.channels(outline), recipe.size),
                root=settings.root,
                augment=recipe.augmentations,
                validate=recipe.validate,
                download=settings.download,
            )
    if model is None:
        model = networks.build(recipe.network, len(data_set.classes))
    model.to(torch.get_default_dtype())
    initial.load_into(model, data_set.classes)
    if initial.note:
        show.note(f"weights of {initial.origin}: {initial.note}")
    _check_model(model, recipe, data_set)
    return model, data_set


def _check_model(model: nn.Module, recipe: Recipe, data: DataSet) -> None:
    """ValueError unless the model can be trained on the smallest batch of an epoch."""
    batch = min(len(data.train) % recipe.batch_size or recipe.batch_size, 2)
    shape = (batch, *data.image)
    is_own = own.is_own(recipe.network)
    failed: Exception | None = None
    for device in ("meta", "cpu"):  # what cannot be done without numbers is done with
        try:
            tried = deepcopy(model).to(device)
            transfer.before_epoch(tried, recipe, 1)
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                out = tried(torch.zeros(shape, device=device))
            break
        except Exception as error:
            if not is_own and not isinstance(error, RuntimeError | ValueError):
                raise
            failed = error
    else:
        assert failed is not None
        message = own.describe_error(failed) if is_own else one_line(failed)
        raise ValueError(
            f"{recipe.network} cannot be trained with a batch of shape {shape}: {message}"
        ) from (failed if is_own else None)
    if not is_own:
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


def _saved_state(recipe: Recipe, folder: Path, resume: bool) -> Json | None:
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


def _accelerator(
    recipe: Recipe, settings: Settings, folder: Path, step: int
) -> accelerate.Accelerator:
    check_supported(recipe)
    if settings.track:
        _has_tracker(settings.track)
    AcceleratorState._reset_state()  # of a run before this one in the same process
    accelerator = accelerate.Accelerator(
        # Without a GPU, Accelerate joins processes only where it is told of the CPU.
        cpu="WORLD_SIZE" in os.environ and not torch.cuda.is_available(),
        mixed_precision=str(recipe.mixed_precision),
        log_with=settings.track or None,
        project_dir=folder,
        # A network may have parts that one batch does not reach.
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                find_unused_parameters=transfer.trains_in_part(recipe)
            )
        ],
    )
    if settings.track:
        options = {k: v for k, v in recipe.to_json().items() if v is not None}
        # A run that was killed has told of steps that are now made again.
        tracker_options = {"tensorboard": {"purge_step": step + 1}}
        accelerator.init_trackers(
            settings.track, config=options, init_kwargs=tracker_options
        )
    return accelerator


def check_supported(recipe: Recipe) -> None:
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


def _make_run(
    recipe: Recipe, model: nn.Module, data: DataSet, accelerator: accelerate.Accelerator
) -> Run:
    model.to(accelerator.device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    if recipe.compile:
        model.compile()
    ema_model = None
    if recipe.weight_ema:
        average = swa_utils.get_ema_multi_avg_fn(recipe.weight_ema)
        # Batch norms' statistics too: today's do not fit the weights of the mean.
        ema_model = swa_utils.AveragedModel(
            model, multi_avg_fn=average, use_buffers=True
        )
    optimizer = make_optimizer(recipe, transfer.groups(model, recipe))
    per_epoch = math.ceil(len(data.train) / recipe.batch_size)
    schedule = make_schedule(recipe, optimizer, per_epoch)
    wrapped_model, wrapped_optimizer = accelerator.prepare(model), optimizer
    # Without a scaler its wrapper would look for an optimizer library at every step.
    if accelerator.scaler:
        wrapped_optimizer = accelerator.prepare(optimizer)
    return Run(model, wrapped_model, wrapped_optimizer, schedule, ema_model)


def _train_epochs(
    run: Run,
    recipe: Recipe,
    data: DataSet,
    folder: Path,
    settings: Settings,
    accelerator: accelerate.Accelerator,
    show: Show,
    stop_request: "StopRequest",
) -> None:
    per_epoch = math.ceil(len(data.train) / recipe.batch_size)
    workers = workers_for(settings, data)
    steps = train_steps(
        run.wrapped_model,
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
        accelerator=accelerator,
        workers=workers,
        start_step=run.step,
    )
    show.begin(recipe, data, run.step, per_epoch)
    part, prefix = data.test, ""
    if data.validation is not None:  # the test part waits until the end
        part, prefix = data.validation, "validation_"

    def test(row: Json) -> None:
        """The epoch's last word; an epoch whose testing fails is kept, and tested later."""
        run.untested = row
        try:
            measures = accuracies(
                run.tested_model, part, accelerator, workers, show.tested
            )
        except BaseException:
            _save(run, recipe, data, accelerator, folder)
            raise
        run.history.append({**row, **{prefix + k: v for k, v in measures.items()}})
        run.untested, run.loss_sum = None, 0.0
        # Before the checkpoint: a run that is killed between them does this epoch again.
        if data.validation is not None and best(run.history) is run.history[-1]:
            _save(run, recipe, data, accelerator, folder, BEST)

    with closing(steps), show:  # type: ignore[type-var]
        if run.untested is not None:
            test(run.untested)
            _save(run, recipe, data, accelerator, folder)
            show.epoch(run.history[-1])
        if out_of_patience(run.history, recipe.patience):
            return
        for step in steps:
            if run.ema_model is not None:
                run.ema_model.update_parameters(run.model)
            run.step += 1
            run.loss_sum += step.loss * step.images
            show.step(step)
            if settings.track:
                rate = run.optimizer.param_groups[0]["lr"]
                accelerator.log(
                    {"loss": step.loss, "learning_rate": rate}, step=run.step
                )
            if step.ends_epoch:
                _same_buffers(run.tested_model, accelerator)
                test({"epoch": step.epoch, "loss": run.loss_sum / len(data.train)})
            every = settings.save_every
            stop = stop_request.received()
            if step.ends_epoch or stop or (every and run.step % every == 0):
                _save(run, recipe, data, accelerator, folder)
            if step.ends_epoch:  # after the saving: a terminal may be gone
                show.epoch(run.history[-1])
                if settings.track:
                    name = f"{prefix}accuracy"
                    accelerator.log({name: run.history[-1][name]}, step=run.step)
                if out_of_patience(run.history, recipe.patience):
                    return
            if stop and run.step < recipe.epochs * per_epoch:
                raise Stopped(
                    f"stopped after {run.step} steps, all of which are saved; "
                    f"{resume_hint(folder)}",
                    stop_request.number or signal.SIGINT,
                )


def best(history: list[Json]) -> Json:
    """The epoch that did best on the validation images; of equals the earliest."""
    return max(history, key=lambda row: row["validation_accuracy"])


def out_of_patience(history: list[Json], patience: int) -> bool:
    """Whether the best epoch is that many epochs ago."""
    if not patience or not history:
        return False
    return int(history[-1]["epoch"] - best(history)["epoch"]) >= patience


def _final_row(
    run: Run,
    data: DataSet,
    folder: Path,
    accelerator: accelerate.Accelerator,
    settings: Settings,
) -> Json:
    """The last epoch; where there are validation images the best one, tested here."""
    if data.validation is None:
        return run.history[-1]
    accelerator.wait_for_everyone()  # the first process writes the file that all read
    state = checkpoint.load(folder / BEST)
    _load_weights(run, state, folder / BEST)
    workers = workers_for(settings, data)
    return {
        **state["history"][-1],
        **accuracies(run.tested_model, data.test, accelerator, workers),
    }


def _same_buffers(model: nn.Module, accelerator: accelerate.Accelerator) -> None:
    """Give all processes the buffers of the first one, which are those that are saved.

    Each has taken batch statistics of its own images.
    """
    if accelerator.num_processes > 1:
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
    accelerator: AcceleratorLike,
    workers: int = 0,
    progress: ProgressCallback | None = None,
) -> tuple[Tensor, Tensor]:
    """The scores and classes of this process's share, in evaluation mode, on the CPU.

    Every module gets its mode back. `progress(done, total)` is called before the first batch
    and after each, with the images of this share.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    outputs, targets = [], []
    planned, done = EvaluationBatches(source, 256, accelerator), 0
    total = sum(map(len, planned.batches))
    if progress is not None:
        progress(0, total)
    try:
        with torch.no_grad():
            for x, y in load_batches(planned, workers):
                with accelerator.autocast():
                    outputs.append(model(x.to(accelerator.device)).float().cpu())
                targets.append(y)
                done += len(y)
                if progress is not None:
                    progress(done, total)
    finally:
        for module, mode in modes.items():
            module.training = mode
    return torch.cat(outputs), torch.cat(targets)


def accuracies(
    model: nn.Module,
    source: Source,
    accelerator: AcceleratorLike,
    workers: int = 0,
    progress: ProgressCallback | None = None,
) -> dict[str, float]:
    """The share of all images whose largest score is their class's: "accuracy".

    With more than 5 classes also "top5", of those whose class is among the 5 largest.
    """
    outputs, truth = scores(model, source, accelerator, workers, progress)
    rights = {"accuracy": outputs.argmax(dim=1) == truth}
    if outputs.shape[1] > 5:
        rights["top5"] = (outputs.topk(5).indices == truth[:, None]).any(dim=1)
    counts = torch.stack([right.sum() for right in rights.values()])
    counts = accelerator.reduce(counts.to(accelerator.device))
    return {k: n / len(source) for k, n in zip(rights, counts.tolist(), strict=True)}


def accuracy(
    model: nn.Module,
    source: Source,
    accelerator: AcceleratorLike,
    workers: int = 0,
) -> float:
    """The share of all images whose largest score is their class's."""
    return accuracies(model, source, accelerator, workers)["accuracy"]


# --- what is kept --------------------------------------------------------------------


def _save(
    run: Run,
    recipe: Recipe,
    data: DataSet,
    accelerator: accelerate.Accelerator,
    folder: Path,
    name: str = LAST,
) -> None:
    """Write a checkpoint; `BEST` is not gone on from, and has no optimizer's state."""
    if not accelerator.is_main_process:
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
            "done": run.step,
            "total": run.loss_sum,
            "untested": run.untested,
            "history": run.history,
            "model": run.model.state_dict(),
            "weight_ema": run.ema_model.state_dict()
            if run.ema_model is not None
            else None,
            **(_resume_state(run, accelerator) if name == LAST else {}),
        },
    )


def _resume_state(run: Run, accelerator: accelerate.Accelerator) -> Json:
    return {
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "scaler": accelerator.scaler.state_dict() if accelerator.scaler else None,
    }


def _check_same_data(state: Json, data: DataSet, folder: Path) -> None:
    """Refused, saying what has changed, unless the images are those of the run."""
    message = ""
    for name, now in (("classes", data.classes), ("images", len(data.train))):
        if state.get(name, now) != now:
            message = f"{name} {state[name]}, now {now}"
    if not message and state.get("digest", data.digest) != data.digest:
        message = "as many images, but not the same"
    if not message:
        return
    photo_names = run_photo_names(folder)
    if photo_names is not None and data.names is not None:
        message = photo_changes(photo_names, data.names.all()) or message
    raise Refused(
        f"{folder / LAST} is of a run on other data: {message}; go on with those of then, "
        "or begin anew with --out"
    )


def run_photo_names(folder: Path) -> PhotoNames | None:
    """The photos of a run; None where its folder does not tell."""
    try:
        return PhotoNames(**json.loads((folder / PHOTOS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _restore(
    run: Run, state: Json, accelerator: accelerate.Accelerator, path: Path
) -> None:
    _load_weights(run, state, path)
    try:
        run.optimizer.load_state_dict(state["optimizer"])
        run.schedule.load_state_dict(state["schedule"])
        if accelerator.scaler:
            accelerator.scaler.load_state_dict(state["scaler"])
        run.step, run.loss_sum = state["done"], state["total"]
        run.history = state["history"]
        run.untested = state.get("untested")
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise NotACheckpoint(
            f"{path} is of another network: {one_line(error)}"
        ) from None


def _load_weights(run: Run, state: Json, path: Path) -> None:
    try:
        run.model.load_state_dict(state["model"])
        if run.ema_model is not None:
            run.ema_model.load_state_dict(state["weight_ema"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise NotACheckpoint(
            f"{path} is of another network: {one_line(error)}"
        ) from None


def _settings_json(settings: Settings) -> Json:
    return {
        "root": str(settings.root),
        "workers": settings.workers,
        "save_every": settings.save_every,
        "track": settings.track,
    }


def _processor_seconds() -> float:
    """Of this process and of those that it has seen end, such as loading ones."""
    return sum(os.times()[:4])


def write_json(path: Path, content: Json) -> None:
    """JSON that is there whole or not at all."""
    checkpoint.write(path, (json.dumps(content, indent=1) + "\n").encode())


# --- what may happen on the way ------------------------------------------------------


class StopRequest:
    """Whether any of the processes was told to stop, and by which signal this one."""

    def __init__(self, accelerator: accelerate.Accelerator) -> None:
        self.accelerator, self.number = accelerator, 0

    def received(self) -> bool:
        if self.accelerator.num_processes == 1:
            return self.number > 0
        flag = torch.tensor(float(self.number), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag) > 0)


@contextmanager
def stop_signals(accelerator: accelerate.Accelerator) -> Iterator[StopRequest]:
    """Signals to stop wait for the end of the step; a second of its kind does not.

    One that is ignored stays so: nohup, or a shell's background.
    """
    request = StopRequest(accelerator)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    stopping = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {s: signal.getsignal(s) for s in stopping}
    handlers = {
        s: handler for s, handler in handlers.items() if handler != signal.SIG_IGN
    }

    def note(number: int, frame: object) -> None:
        request.number = number
        signal.signal(number, handlers[signal.Signals(number)])

    for number in handlers:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
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


def out_of_memory(error: Exception) -> bool:
    on_cpu = "can't allocate memory" in str(error)
    return on_cpu or isinstance(error, torch.OutOfMemoryError)


def process_lost(error: Exception, processes: int) -> bool:
    """Whether this is how the loss of another process shows itself."""
    if "DataLoader worker" in str(error) or isinstance(error, CONNECTION_LOST):
        return True
    if processes == 1:
        return False
    words = ("connection", "gloo", "nccl", "peer", "timed out", "socket")
    return any(word in str(error).lower() for word in words)


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def short_reason(error: Exception) -> str:
    """Without the line of the library's source, and its guesses."""
    return re.sub(r"^\[[^]]*\] ", "", one_line(error)).split(". ")[0]


def resume_hint(folder: Path) -> str:
    return f"go on with: cnn-lab train --resume {shlex.quote(str(folder))}"
