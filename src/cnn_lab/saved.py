"""What is kept of a run, and how it goes on from that.

A folder holds `config.json` (the options), `last.safetensors` (the checkpoint), for
photos `photos.json` (which are learnt from, which are held out), where images are held
out for validation `best.safetensors` (the weights that did best on them) and, once the
run has ended, `result.json`.
"""

import json
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import accelerate
import torch
from torch import nn
from torch.optim import lr_scheduler

from cnn_techniques.training import WeightEMA

from . import checkpoint
from .checkpoint import NotACheckpoint
from .recipe import Recipe, Settings
from .schedules import OnPlateau
from .sources import DataSet, PhotoNames, photo_changes
from .stop import Refused, one_line

Json = dict[str, Any]
LAST, CONFIG, RESULT = "last.safetensors", "config.json", "result.json"
BEST = "best.safetensors"
PHOTOS = "photos.json"


@dataclass
class Run:
    """What changes while a run goes on."""

    model: nn.Module  # as floor 1 made it
    wrapped_model: nn.Module  # as it is called: maybe wrapped for several processes
    optimizer: torch.optim.Optimizer
    schedule: lr_scheduler.LRScheduler | OnPlateau
    ema_model: WeightEMA | None
    step: int = 0  # how many were made
    loss_sum: float = 0.0  # losses of the epoch that has begun, times their images
    untested: Json | None = None  # the row of an epoch whose testing failed
    history: list[Json] = field(default_factory=list)

    @property
    def tested_model(self) -> nn.Module:
        """What is tested and exported: the mean of the weights where there is one."""
        return self.ema_model.module if self.ema_model is not None else self.model


def saved_state(recipe: Recipe, folder: Path, resume: bool) -> Json | None:
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
    asked, saved = recipe.to_json(), dict(state.get("recipe", {}))
    # A run that was made before there was such an option did without.
    saved = {**{f.name: f.default for f in fields(Recipe)}, **saved}
    for name, value in asked.items():
        if saved[name] != value:
            raise Refused(
                f"{path} is of a run with {name} {saved[name]!r}, not {value!r}"
            )
    if recipe.validate and state["history"]:
        checkpoint.load(folder / BEST)  # needed at the end: told now
    return state


def save_run(
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


def check_same_data(state: Json, data: DataSet, folder: Path) -> None:
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


def restore_run(
    run: Run, state: Json, accelerator: accelerate.Accelerator, path: Path
) -> None:
    load_weights(run, state, path)
    try:
        run.optimizer.load_state_dict(state["optimizer"])
        run.schedule.load_state_dict(state["schedule"])
        if accelerator.scaler:
            accelerator.scaler.load_state_dict(state["scaler"])
        run.step, run.loss_sum = state["done"], state["total"]
        run.history = state["history"]
        run.untested = state.get("untested")
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise NotACheckpoint(
            f"{path} is of another network: {one_line(error)}"
        ) from None


def load_weights(run: Run, state: Json, path: Path) -> None:
    try:
        run.model.load_state_dict(state["model"])
        if run.ema_model is not None:
            run.ema_model.load_state_dict(state["weight_ema"])
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise NotACheckpoint(
            f"{path} is of another network: {one_line(error)}"
        ) from None


def settings_json(settings: Settings) -> Json:
    return {
        "root": str(settings.root),
        "workers": settings.workers,
        "save_every": settings.save_every,
        "track": settings.track,
    }


def write_json(path: Path, content: Json) -> None:
    """JSON that is there whole or not at all."""
    checkpoint.write(path, (json.dumps(content, indent=1) + "\n").encode())
