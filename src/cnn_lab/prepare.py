"""What a run needs before its first step: a network, data, and where it is computed."""

import math
import os
import signal
from copy import deepcopy
from pathlib import Path
from typing import Any

import accelerate
import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, parse_flag_from_env
from torch import Tensor, nn

from cnn_techniques.optimization import SAM
from cnn_techniques.training import WeightEMA

from . import networks, own, transfer
from .fit import InMemory
from .norms import replace_norms
from .recipe import Precision, Recipe, Settings, make_optimizer, make_schedule
from .regularizers import regularize
from .saved import Run
from .show import Show, Silent
from .sources import DataSet, open_data
from .stop import Refused, one_line


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
            for part in (data_set.train, data_set.validation, data_set.test):
                own.can_be_sent(part)
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
    if initial.without_averages:  # of a run whose norms had been replaced
        replace_norms(model, recipe.norm)
    initial.load_into(model, data_set.classes)
    if not initial.without_averages:
        replace_norms(model, recipe.norm)
    if initial.note:
        show.note(f"weights of {initial.origin}: {initial.note}")
    regularize(model, recipe.regularizers, data_set.image)
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


def workers_for(settings: Settings, data: DataSet) -> int:
    """How many processes load images."""
    if not hasattr(signal, "SIGHUP"):  # which they are told to ignore
        return 0
    if settings.workers is not None:
        return settings.workers
    here = isinstance(data.train, InMemory | own.Items)  # torch's default too
    return 0 if here else min(os.cpu_count() or 1, 8)


# --- where it is computed ------------------------------------------------------------


def make_accelerator(
    recipe: Recipe, settings: Settings, folder: Path, step: int
) -> accelerate.Accelerator:
    check_supported(recipe)
    if settings.track:
        check_tracker(settings.track)
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
    # Accelerate's own variable keeps a run from the GPU that is there.
    on_cpu = not torch.cuda.is_available() or parse_flag_from_env("ACCELERATE_USE_CPU")
    if recipe.mixed_precision == Precision.fp16 and on_cpu:
        raise Refused("mixed precision fp16 needs a GPU; bf16 runs on a CPU too")


def check_tracker(name: str) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    known = sorted(str(tracker) for tracker in LOGGER_TYPE_TO_CLASS)
    if name not in known:
        raise Refused(f"unknown tracker {name!r}; expected {', '.join(known)}")
    if name not in [str(tracker) for tracker in get_available_trackers()]:
        package = {"comet_ml": "comet-ml"}.get(name, name)
        raise Refused(f"--track {name} needs a package: pip install {package}")


def make_run(
    recipe: Recipe, model: nn.Module, data: DataSet, accelerator: accelerate.Accelerator
) -> Run:
    model.to(accelerator.device)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    if recipe.compile:
        model.compile()
    ema_model = None
    if recipe.weight_ema:
        # Batch norms' statistics too: today's do not fit the weights of the mean.
        ema_model = WeightEMA(model, recipe.weight_ema, use_buffers=True)
    optimizer = make_optimizer(recipe, transfer.groups(model, recipe))
    if recipe.sam:
        optimizer = SAM(model, optimizer, recipe.sam)
    per_epoch = math.ceil(len(data.train) / recipe.batch_size)
    schedule = make_schedule(recipe, optimizer, per_epoch)
    wrapped_model, wrapped_optimizer = accelerator.prepare(model), optimizer
    # Without a scaler its wrapper would look for an optimizer library at every step.
    if accelerator.scaler:
        wrapped_optimizer = accelerator.prepare(optimizer)
    return Run(model, wrapped_model, wrapped_optimizer, schedule, ema_model)
