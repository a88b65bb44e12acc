"""The optimizers of the pages, by name: a maker for each, with its usual settings."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from cnn_techniques.optimization import (
    LAMB,
    SGD,
    AdaBelief,
    Adam,
    AdamW,
    Lion,
    Muon,
    RAdam,
)

from .options import Optimizer

Groups = list[dict[str, Any]]  # each with "params", and maybe an "lr" of its own

# Called with groups and the learning rate of those without one.
OPTIMIZERS: dict[str, Callable[[Groups, float], torch.optim.Optimizer]] = {
    Optimizer.sgd_momentum: partial(SGD, momentum=0.9, nesterov=True),
    Optimizer.adam: Adam,
    Optimizer.adamw: AdamW,
    Optimizer.radam: RAdam,
    Optimizer.lamb: LAMB,
    Optimizer.adabelief: AdaBelief,
    Optimizer.lion: Lion,
    # One rate for both kinds of its steps: those of matrices get the length of AdamW's.
    Optimizer.muon: partial(Muon, match_rms_adamw=True),
}


def decayed(groups: Groups, weight_decay: float) -> Groups:
    """Each group parted into what decays and what does not: a norm's scale or a bias."""
    parts = []
    for group in groups:
        matrices = [p for p in group["params"] if p.ndim > 1]
        vectors = [p for p in group["params"] if p.ndim <= 1]
        for params, decay in ((matrices, weight_decay), (vectors, 0.0)):
            if params:
                parts.append({**group, "params": params, "weight_decay": decay})
    return parts
