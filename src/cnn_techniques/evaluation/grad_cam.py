"""Grad-CAM: where in an image is what raises a class's score?

Source: Selvaraju, Cogswell, Das, Vedantam, Parikh and Batra, "Grad-CAM: Visual
Explanations from Deep Networks via Gradient-based Localization", ICCV 2017
(arXiv:1610.02391), section 3.
Legend: N images, K classes; the layer gives C channels of h x w numbers.
"""

# --8<-- [start:imports]
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
@torch.inference_mode(False)  # the caller may have turned gradients off
@torch.enable_grad()
def grad_cam(
    model: nn.Module,
    layer: nn.Module,
    images: Tensor,
    target: Tensor | Callable[[Any], Tensor] | None = None,
) -> Tensor:
    """A map per image: how much what the layer found at each place speaks for a class.

    The model is left as it was: its parameters get no gradients, the hook is removed.

    Args:
        model: a network in evaluation mode that gives scores before the softmax.
        layer: the module in it whose output (N, C, h, w) is weighted.
        target: (N,) classes; or a function of the network's output that gives (N,)
            scores, one of each image; or None for the class that the image is given.

    Shape: (N, ...) -> (N, h, w), 0 and above.
    Raises: TypeError for classes that are no integers; ValueError for a wrong value.
    """
    learning = [name for name, part in model.named_modules() if part.training]
    if learning:
        where = learning[0] or type(model).__name__
        raise ValueError(f"expected evaluation mode, {where} is in training mode")
    runs: list[Tensor] = []

    # --8<-- [start:hook]
    def start_here(_: nn.Module, __: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output)
            raise ValueError(f"expected a layer that gives (N, C, h, w), got {got}")
        runs.append(output.detach().requires_grad_())
        return runs[-1].clone()  # a ReLU in place after it changes the copy alone

    # --8<-- [end:hook]
    handle = layer.register_forward_hook(start_here)
    try:
        images = images.clone() if images.is_inference() else images
        scores = _grad_cam_scores(model(images), target)  # (N,)
    finally:
        handle.remove()
    if len(runs) != 1:
        raise ValueError(f"expected a layer that runs once, it ran {len(runs)} times")
    found = runs[0]
    if scores.shape != found.shape[:1] or not bool(scores.isfinite().all()):
        got = f"{tuple(scores.shape)}: {scores.tolist()}"
        raise ValueError(f"expected {found.shape[0]} finite scores, got {got}")
    total = scores.sum()  # an image's score depends on its own part of the layer alone
    slopes = None
    if total.requires_grad:
        (slopes,) = torch.autograd.grad(total, found, allow_unused=True)
    if slopes is None:
        raise ValueError("expected scores that depend on the layer, they do not")
    # --8<-- [start:step]
    weights = slopes.mean(dim=(2, 3), keepdim=True)  # (N, C, 1, 1)
    return F.relu((weights * found.detach()).sum(dim=1))  # (N, h, w)
    # --8<-- [end:step]


def heatmap(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps as pictures: each divided by its largest number, and resized bilinearly.

    Shape: (N, h, w) -> (N, *size), from 0 to 1; a map of zeros stays one.
    Raises: ValueError for other shapes, NaN, infinity, or a number below 0.
    """
    fine = (maps >= 0) & maps.isfinite()
    if maps.ndim != 3 or not maps.numel() or not bool(fine.all()):
        ends = f", from {maps.min()} to {maps.max()}" if maps.numel() else ""
        raise ValueError(f"expected (N, h, w) from 0, got {tuple(maps.shape)}{ends}")
    top = maps.amax(dim=(1, 2), keepdim=True)  # (N, 1, 1)
    scaled = maps / top.clamp(min=torch.finfo(maps.dtype).tiny)
    return F.interpolate(scaled[:, None], size, mode="bilinear")[:, 0]


def _grad_cam_scores(output: Any, target: Any) -> Tensor:
    if callable(target):
        scores: Tensor = target(output)
        return scores
    if not isinstance(output, Tensor) or output.ndim != 2:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output)
        raise ValueError(f"expected scores (N, K) or a function as target, got {got}")
    classes = output.argmax(dim=1) if target is None else target
    integers = (torch.int64, torch.int32)
    if not isinstance(classes, Tensor) or classes.dtype not in integers:
        kind = str(classes.dtype) if isinstance(classes, Tensor) else repr(classes)
        raise TypeError(f"expected classes as a tensor of integers, got {kind}")
    n, k = output.shape
    if classes.shape != (n,) or not bool(((classes >= 0) & (classes < k)).all()):
        given = f"{tuple(classes.shape)}: {classes.tolist()}"
        raise ValueError(f"expected {n} classes from 0 to {k - 1}, got {given}")
    return output.gather(1, classes.long()[:, None])[:, 0]


# --8<-- [end:module]
