"""Loss scaling: gradients that float16 can hold, and no step with those it cannot.

Source: Micikevicius et al., "Mixed Precision Training", ICLR 2018, arXiv:1710.03740;
when the scale grows and backs off is the rule of torch.amp.GradScaler.
Legend: S the scale, g a gradient, g' the gradient of the loss times S.
"""

# --8<-- [start:imports]
import math
from typing import Any

import torch
from torch import Tensor

# --8<-- [end:imports]


# --8<-- [start:module]
class LossScaler:
    """Multiplies the loss before the backward pass, divides the gradients after it.

    A step whose gradients are not all finite is left out and the scale falls; after
    growth_interval steps in a row that were made it grows.

        scaler.scale(loss).backward()
        scaler.step(optimizer)  # with gradients divided by the scale, or not at all
        scaler.update()

    Args:
        init_scale: S at the start; too large a one costs a few steps, no more.
        growth_factor: what S is multiplied by after enough steps, above 1.
        backoff_factor: what S is multiplied by after an overflow, between 0 and 1.
        growth_interval: after how many made steps in a row S grows.

    State dicts can be exchanged with torch.amp.GradScaler.
    Raises: ValueError for settings out of these ranges.
    """

    _scale: float
    _growth_factor: float
    _backoff_factor: float
    _growth_interval: int
    _growth_tracker: int

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
    ) -> None:
        settings = (init_scale, growth_factor, backoff_factor, growth_interval, 0)
        names = _LOSS_SCALER_STATE
        self.load_state_dict(dict(zip(names, settings, strict=True)))  # checks them
        self._overflow: dict[int, bool] = {}  # of each optimizer, since `update`
        self._stepped: set[int] = set()

    def get_scale(self) -> float:
        """S, a float32 number."""
        return self._scale

    def scale(self, loss: Tensor) -> Tensor:
        """The loss times S, to call backward on; a float16 scalar becomes float32."""
        return loss * torch.tensor(self._scale, dtype=torch.float32, device=loss.device)

    @torch.no_grad()
    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by S now, to clip them or look at them before `step`.

        Without a call, `step` does it.
        Raises: RuntimeError if that was done since the last `update`, or if there is no
            gradient; ValueError for gradients that are float16 or sparse.
        """
        if id(optimizer) in self._overflow:
            raise RuntimeError("the gradients were unscaled since the last update()")
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        if not gradients:
            raise RuntimeError("no parameter of the optimizer has a gradient")
        for g in gradients:
            if g.dtype == torch.float16 or g.is_sparse:
                form = f"{g.dtype}, {g.layout}"
                raise ValueError(f"expected dense gradients above 16 bits, got {form}")
        # --8<-- [start:unscale]
        inverse = torch.tensor(self._scale, dtype=torch.float64).reciprocal().float()
        finite = True
        for g in gradients:
            finite = finite and bool(g.isfinite().all())
            g *= inverse.to(g.device)
        self._overflow[id(optimizer)] = not finite
        # --8<-- [end:unscale]

    def step(self, optimizer: torch.optim.Optimizer) -> bool:
        """Unscale, unless that was done, and step if all gradients are finite.

        Returns: whether the step was made; step a schedule only if it was.
        Raises: RuntimeError for a second step before `update`; and as `unscale_`.
        """
        if id(optimizer) in self._stepped:
            raise RuntimeError("the optimizer made its step since the last update()")
        # --8<-- [start:step]
        if id(optimizer) not in self._overflow:
            self.unscale_(optimizer)
        made = not self._overflow[id(optimizer)]
        if made:
            optimizer.step()
        # --8<-- [end:step]
        self._stepped.add(id(optimizer))
        return made

    def update(self) -> None:
        """Let S fall or grow; call it once per iteration, after all optimizers' steps.

        Raises: RuntimeError if no gradients were unscaled since the last call.
        """
        if not self._overflow:
            raise RuntimeError("expected step() before update(), got none since it")
        # --8<-- [start:update]
        if any(self._overflow.values()):
            self._scale = _loss_scale_in_float32(self._scale * self._backoff_factor)
            self._growth_tracker = 0
        else:
            self._growth_tracker += 1
            if self._growth_tracker == self._growth_interval:
                grown = _loss_scale_in_float32(self._scale * self._growth_factor)
                self._scale = grown if math.isfinite(grown) else self._scale
                self._growth_tracker = 0
        # --8<-- [end:update]
        self._overflow, self._stepped = {}, set()

    def state_dict(self) -> dict[str, Any]:
        """The scale, the settings, and how many steps in a row were made."""
        return {
            name: getattr(self, f"_{name.lstrip('_')}") for name in _LOSS_SCALER_STATE
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a saved state, of the end of an iteration.

        Raises: ValueError for a state of another kind, or values out of range.
        """
        if state_dict.keys() != set(_LOSS_SCALER_STATE):
            raise ValueError(
                f"expected a state with {', '.join(_LOSS_SCALER_STATE)}, "
                f"got {', '.join(state_dict) or 'an empty one'}"
            )
        values = [state_dict[name] for name in _LOSS_SCALER_STATE]
        scale, growth, backoff, interval, tracker = values
        scale = _loss_scale_in_float32(scale)
        if not (
            0 < scale < math.inf
            and 1 < growth < math.inf
            and 0 < backoff < 1
            and 1 <= interval == int(interval)
            and 0 <= tracker == int(tracker)
        ):
            raise ValueError(
                "expected a scale above 0, a growth factor above 1, a backoff factor "
                "between 0 and 1 and a growth interval of 1 or more steps, got "
                f"{scale=}, {growth=}, {backoff=}, {interval=}, {tracker=}"
            )
        self._scale = scale
        self._growth_factor, self._backoff_factor = growth, backoff
        self._growth_interval, self._growth_tracker = interval, tracker


_LOSS_SCALER_STATE = (  # names of torch
    "scale",
    "growth_factor",
    "backoff_factor",
    "growth_interval",
    "_growth_tracker",
)


def _loss_scale_in_float32(value: float) -> float:
    """Rounded as torch rounds it, which keeps the scale in float32."""
    return torch.tensor(value, dtype=torch.float32).item()


# --8<-- [end:module]
