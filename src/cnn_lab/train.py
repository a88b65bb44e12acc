"""A run: a recipe carried out, saved on the way, and continued where it stopped."""

import json
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import accelerate
import torch
from torch import Tensor, distributed, nn

from . import checkpoint, own, transfer
from .fit import BatchTransform, SingleProcess, train_steps
from .prepare import (
    check_supported,
    check_tracker,
    make_accelerator,
    make_run,
    workers_for,
)
from .recipe import Recipe, Settings, make_mix
from .record import environment
from .saved import (
    BEST,
    CONFIG,
    LAST,
    PHOTOS,
    RESULT,
    Run,
    check_same_data,
    load_weights,
    restore_run,
    save_run,
    saved_state,
    settings_json,
    write_json,
)
from .schedules import OnPlateau
from .show import Show, Silent
from .sources import DataSet
from .stop import (
    CONNECTION_LOST,
    Refused,
    Stopped,
    StopRequest,
    folder_lock,
    one_line,
    out_of_memory,
    process_lost,
    resume_hint,
    short_reason,
    stop_signals,
)
from .tasks import CLASSIFY, Task
from .update import make_update

Json = dict[str, Any]


def train(
    recipe: Recipe,
    folder: Path,
    settings: Settings | None = None,
    *,
    resume: bool = False,
    show: Show | None = None,
    model: nn.Module | None = None,
    data: Any = None,
    task: Task = CLASSIFY,
) -> Json:
    """Carry out a recipe, and return its result.

    Args:
        folder: where the run is kept; made if it is not there.
        resume: go on with the run that the folder holds.
        model: trained in place, instead of the one that the recipe names, which is then
            its name for readers. Scores (N, K), or a tuple of which they are the first.
        data: `own.Datasets` or a pair (train, test), instead of the recipe's.
        task: what is learnt: `objects.DETECT` and `objects.SEGMENT` are others.

    Raises: Refused for a folder that holds another run; BadData, NotACheckpoint,
    FloatingPointError and OSError with messages of one line; Stopped after SIGINT,
    SIGTERM or SIGHUP, with the run saved.
    """
    settings, show = settings or Settings(), show or Silent()
    if model is not None:
        recipe = replace(recipe, network=f"{own.GIVEN}: {recipe.network}")
    if data is not None:
        recipe = replace(recipe, data=own.GIVEN)
    saved = saved_state(recipe, folder, resume)
    if saved is not None and (folder / RESULT).exists():
        return json.loads((folder / RESULT).read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    accelerator = make_accelerator(
        recipe, settings, folder, saved["done"] if saved else 0
    )
    show = show if accelerator.is_main_process else Silent()
    with ExitStack() as stack:
        stack.enter_context(deterministic(recipe.deterministic))
        torch.manual_seed(recipe.seed)
        model, data = task.prepared(recipe, settings, model, data, show)
        run = make_run(recipe, model, data, accelerator)
        if saved is not None:
            check_same_data(saved, data, folder)
            restore_run(run, saved, accelerator, folder / LAST)
        if accelerator.is_main_process:
            stack.enter_context(folder_lock(folder))
        if accelerator.is_main_process and saved is None:
            write_json(folder / CONFIG, {**recipe.to_json(), **settings_json(settings)})
            if data.names is not None:
                write_json(folder / PHOTOS, asdict(data.names))
        begun, seconds, work = run.step, -time.perf_counter(), -_processor_seconds()
        learnt = False
        try:
            with stop_signals(accelerator) as stop_request:
                _train_epochs(
                    run,
                    recipe,
                    data,
                    folder,
                    settings,
                    accelerator,
                    show,
                    stop_request,
                    task,
                )
                learnt = True
                row = _final_row(run, data, folder, accelerator, settings, task)
        except (RuntimeError, MemoryError, *CONNECTION_LOST) as error:
            if out_of_memory(error):
                cure = "lower --batch-size or --size"
                if learnt or run.untested is not None:  # testing has no such option
                    cure = (
                        "what was learnt is saved; free some, and "
                        f"{resume_hint(folder, task.command)}"
                    )
                raise Refused(
                    f"no memory is left ({one_line(error)}): {cure}"
                ) from None
            if recipe.deterministic and "deterministic implementation" in str(error):
                raise Refused(f"--deterministic: {one_line(error)}") from None
            if not process_lost(error, accelerator.num_processes):
                raise
            if accelerator.num_processes == 1:  # a loader, whose end is told twice
                with suppress(RuntimeError):  # by a signal on its way
                    time.sleep(0.1)
            raise Refused(
                f"another process has ended ({short_reason(error)}), so this one stops; "
                f"{resume_hint(folder, task.command)}"
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
    task: Task = CLASSIFY,
) -> DataSet:
    """All that a run does before its first step, without writing anything.

    Returns the data. Raises: as `train` does before the first step.
    """
    saved = saved_state(recipe, folder, resume)
    check_supported(recipe)
    if settings.track:
        check_tracker(settings.track)
    with torch.random.fork_rng(devices=[]):
        _, data = task.prepared(recipe, settings, show=show)
    if saved is not None:
        check_same_data(saved, data, folder)
    return data


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


def _processor_seconds() -> float:
    """Of this process and of those that it has seen end, such as loading ones."""
    return sum(os.times()[:4])


# --- its epochs ----------------------------------------------------------------------


def _train_epochs(
    run: Run,
    recipe: Recipe,
    data: DataSet,
    folder: Path,
    settings: Settings,
    accelerator: accelerate.Accelerator,
    show: Show,
    stop_request: "StopRequest",
    task: Task,
) -> None:
    per_epoch = math.ceil(len(data.train) / recipe.batch_size)
    workers = workers_for(settings, data)
    # Accelerate's backward and autocast cost a small network 2 % of a step.
    plain = accelerator.num_processes == 1 and accelerator.mixed_precision == "no"
    steps = train_steps(
        run.wrapped_model,
        data.train,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        optimizer=run.optimizer,
        loss=task.loss(recipe),
        schedule=run.schedule,
        batch_transform=_transform(recipe, len(data.classes)),
        update=make_update(recipe),
        before_epoch=lambda model, epoch: transfer.before_epoch(
            run.model, recipe, epoch
        ),
        seed=recipe.seed,
        accelerator=SingleProcess(accelerator.device) if plain else accelerator,
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
            measures = task.test(
                run.tested_model, part, accelerator, workers, show.tested
            )
        except BaseException:
            save_run(run, recipe, data, accelerator, folder)
            raise
        run.history.append({**row, **{prefix + k: v for k, v in measures.items()}})
        run.untested, run.loss_sum = None, 0.0
        if isinstance(run.schedule, OnPlateau):
            run.schedule.end_epoch(run.history[-1])
        # Before the checkpoint: a run that is killed between them does this epoch again.
        if data.validation is not None and best(run.history) is run.history[-1]:
            save_run(run, recipe, data, accelerator, folder, BEST)

    with closing(steps), show:  # type: ignore[type-var]
        if run.untested is not None:
            test(run.untested)
            save_run(run, recipe, data, accelerator, folder)
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
                _share_buffers(run.tested_model, accelerator)
                test({"epoch": step.epoch, "loss": run.loss_sum / len(data.train)})
            every = settings.save_every
            stop = stop_request.received()
            if step.ends_epoch or stop or (every and run.step % every == 0):
                save_run(run, recipe, data, accelerator, folder)
            if step.ends_epoch:  # after the saving: a terminal may be gone
                show.epoch(run.history[-1])
                if settings.track:
                    name = f"{prefix}{task.measure}"
                    accelerator.log({name: run.history[-1][name]}, step=run.step)
                if out_of_patience(run.history, recipe.patience):
                    return
            if stop and run.step < recipe.epochs * per_epoch:
                raise Stopped(
                    f"stopped after {run.step} steps, all of which are saved; "
                    f"{resume_hint(folder, task.command)}",
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
    task: Task,
) -> Json:
    """The last epoch; where there are validation images the best one, tested here."""
    if data.validation is None:
        return run.history[-1]
    accelerator.wait_for_everyone()  # the first process writes the file that all read
    state = checkpoint.load(folder / BEST)
    load_weights(run, state, folder / BEST)
    workers = workers_for(settings, data)
    return {
        **state["history"][-1],
        **task.test(run.tested_model, data.test, accelerator, workers),
    }


def _share_buffers(model: nn.Module, accelerator: accelerate.Accelerator) -> None:
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
