"""Exponential moving average of weights: a second network that follows the trained one.

Source: Kingma and Ba, "Adam: A Method for Stochastic Optimization", ICLR 2015,
arXiv:1412.6980, section 7.2; names and states are those of torch's AveragedModel.
Legend: theta the trained weights after step t, beta the decay.
"""

# --8<-- [start:imports]
import copy
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
class WeightEMA(nn.Module):
    """A copy of a network whose weights are the moving average of the network's.

    Args:
        model: the network that is trained.
        decay: beta, from 0 (the network itself) to below 1; about the last
            1 / (1 - beta) steps count.
        debias: divide by 1 - beta^t, so that the first steps count no more than later
            ones; False: the weights after the first step are where the average starts.
        use_buffers: average floating-point buffers too (statistics of batch norms);
            False: copy them. Counts are always copied.

    Call `update_parameters(model)` after each step of the optimizer, and `eval()`
    before the average is used. State dicts can be exchanged with torch's AveragedModel.
    Raises: ValueError for a decay outside [0, 1), or when it is shown another network.
    """

    n_averaged: Tensor  # (): the updates that were made, t

    def __init__(
        self,
        model: nn.Module,
        decay: float = 0.999,
        debias: bool = False,
        use_buffers: bool = True,
    ) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"expected 0 <= decay < 1, got {decay=}")
        self.decay, self.debias, self.use_buffers = decay, debias, use_buffers
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.register_buffer("n_averaged", torch.tensor(0))

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the network as it is now."""
        average, now = _tensors_of_ema(self.module), _tensors_of_ema(model)
        shapes = [[(n, v.shape) for n, v in of.items()] for of in (average, now)]
        if shapes[0] != shapes[1]:
            other = sorted(n for n, _ in set(shapes[0]) ^ set(shapes[1]))
            raise ValueError(f"expected the network that was copied, got other {other}")
        # --8<-- [start:share]
        self.n_averaged += 1
        t = int(self.n_averaged)
        share = 1 - self.decay
        if self.debias or t == 1:
            share /= 1 - self.decay**t  # 1 at the first step
        # --8<-- [end:share]
        buffers = {name for name, _ in model.named_buffers()}
        for name, theta in now.items():
            if name not in buffers or (self.use_buffers and theta.is_floating_point()):
                # --8<-- [start:step]
                average[name].lerp_(theta.to(average[name]), share)
                # --8<-- [end:step]
            else:
                average[name].copy_(theta)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def _tensors_of_ema(model: nn.Module) -> dict[str, Tensor]:
    return dict(chain(model.named_parameters(), model.named_buffers()))


@torch.no_grad()
def recompute_batch_norms(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Give batch norms the mean statistics of these batches, with today's weights.

    Args:
        model: is changed in place; all but its batch norms run as in evaluation.
        batches: inputs of the model, one or more, as large as in training.

    Raises: ValueError for no batch, before anything is changed.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise ValueError("expected one batch or more, got none")
    kind = nn.modules.batchnorm._BatchNorm
    norms = {m: m.momentum for m in model.modules() if isinstance(m, kind)}
    modes = {m: m.training for m in model.modules()}
    model.eval()
    # --8<-- [start:recompute]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # the plain mean over the batches
    for inputs in chain([first], batches):
        model(inputs)
    # --8<-- [end:recompute]
    for norm, momentum in norms.items():
        norm.momentum = momentum
    for module, mode in modes.items():
        module.training = mode


# --8<-- [end:module]
