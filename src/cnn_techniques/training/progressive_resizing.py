"""Progressive learning: image size and regularisation rise together, stage by stage.

Source: Tan and Le, "EfficientNetV2: Smaller Models and Faster Training", ICML 2021,
arXiv:2104.00298, section 4, algorithm 1.
Legend: N images in the batch, C channels, H x W pixels. In the plan, letters are the
paper's: N steps in M stages, S a size, phi the strength of one kind of regularisation.
"""

# --8<-- [start:imports]
import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
class ProgressiveStage(NamedTuple):
    """What one stage of the training is.

    Attributes:
        first: its first step, counted from 0.
        size: S_i, of the images' shorter side in pixels.
        strengths: phi_i of each kind of regularisation, by its name.
    """

    first: int
    size: int
    strengths: dict[str, float]


class ProgressiveLearning:
    """The plan of a training: size and strengths of each step.

    It keeps no state: a run that goes on asks for its step.

    Args:
        steps: N, of the whole training.
        sizes: (S_0, S_e), in pixels: of the first stage and of the last.
        strengths: name -> (phi_0, phi_e), such as {"dropout": (0.1, 0.3)}.
        stages: M, as equally long as they can be.

    Raises: ValueError for too few stages or steps, sizes below 1, strengths not finite.
    """

    def __init__(
        self,
        steps: int,
        sizes: tuple[int, int],
        strengths: Mapping[str, tuple[float, float]],
        stages: int = 4,
    ) -> None:
        if not 2 <= stages <= steps:
            raise ValueError(
                f"expected 2 stages or more and as many steps, got {stages=}, {steps=}"
            )
        if min(sizes) < 1:
            raise ValueError(f"expected sizes of 1 pixel or more, got {sizes=}")
        for name, ends in strengths.items():
            if not all(math.isfinite(end) for end in ends):
                raise ValueError(f"expected finite strengths, got {name}: {ends}")
        self.steps, self.stages = steps, []
        # --8<-- [start:plan]
        for i in range(stages):
            part = i / (stages - 1)  # 0 in the first stage, 1 in the last
            size = round(sizes[0] + (sizes[1] - sizes[0]) * part)
            values = {
                name: start + (end - start) * part
                for name, (start, end) in strengths.items()
            }
            first = math.ceil(i * steps / stages)
            self.stages.append(ProgressiveStage(first, size, values))
        # --8<-- [end:plan]

    def at(self, step: int) -> ProgressiveStage:
        """The stage of a step.

        Raises: ValueError for a step outside of the training.
        """
        if not 0 <= step < self.steps:
            raise ValueError(f"expected a step from 0 to {self.steps - 1}, got {step}")
        # --8<-- [start:stage]
        return self.stages[step * len(self.stages) // self.steps]
        # --8<-- [end:stage]


def resize_batch(images: Tensor, size: int) -> Tensor:
    """Make the shorter side of all images `size` pixels long.

    Args:
        images: (N, C, H, W), floating point.
        size: in pixels.

    Shape: (N, C, H, W) -> (N, C, size, W * size / H), rounded; H is the shorter side.
    Raises: TypeError for images that are not floating point; ValueError for another
        shape or a size below 1.
    """
    if not torch.is_floating_point(images):
        raise TypeError(f"expected floating-point images, got {images.dtype}")
    if images.ndim != 4 or images.numel() == 0 or size < 1:
        raise ValueError(
            "expected images (N, C, H, W) and a size of 1 or more, "
            f"got {tuple(images.shape)} and {size=}"
        )
    height, width = images.shape[-2:]
    if min(height, width) == size:
        return images
    scale = size / min(height, width)
    # --8<-- [start:resize]
    shape = round(height * scale), round(width * scale)
    return F.interpolate(images, shape, mode="bilinear", antialias=True)
    # --8<-- [end:resize]


def set_dropout(model: nn.Module, p: float) -> int:
    """Give every `nn.Dropout` of a network this rate, and say how many there are.

    Args:
        model: changed in place; other layers that drop (whole channels, blocks) stay.
        p: from 0 to 1.

    Raises: ValueError for another rate, or a network without such a layer.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"expected a rate from 0 to 1, got {p=}")
    layers = [m for m in model.modules() if isinstance(m, nn.Dropout)]
    if not layers:
        raise ValueError(f"{type(model).__name__} has no nn.Dropout to set")
    # --8<-- [start:dropout]
    for layer in layers:
        layer.p = p
    # --8<-- [end:dropout]
    return len(layers)


# --8<-- [end:module]
