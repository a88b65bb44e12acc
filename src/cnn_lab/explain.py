"""What in an image speaks for its class: Grad-CAM at the last layer that knows of places."""

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as T

from cnn_techniques.compression import QuantizedLayer
from cnn_techniques.evaluation import grad_cam, heatmap

from .stop import Refused

LEAST = 224  # pixels of a picture's side: smaller ones are enlarged
RED = (1.0, 0.1, 0.0)


def last_places(model: nn.Module, image: Tensor) -> str:
    """The name of the last module to give (N, C, h, w) with more than one place.

    All that the scores know of the image has to pass through it: a branch, or a gate,
    is passed over. A pooling that enlarges has no places of its own.

    Args:
        model: in evaluation mode.
        image: (1, C, H, W) of the size that it is used with; what it shows is of no
            matter.

    Raises: Refused where there is none, where what all passes through later are tokens
    (N, L, C), and for layers that round, which have no gradient.
    """
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        raise Refused(
            "--explain: rounded layers have no gradient; give the checkpoint that this "
            "one was made of"
        )
    names = {module: name for name, module in model.named_modules()}
    ended: list[tuple[nn.Module, int]] = []  # and the number of its dimensions

    def note(module: nn.Module, given: tuple[object, ...], output: object) -> None:
        if not isinstance(output, Tensor):
            return
        places = output.shape[2:].numel() if output.ndim == 4 else 0
        if isinstance(module, nn.AdaptiveAvgPool2d) and isinstance(given[0], Tensor):
            places *= places <= given[0].shape[2:].numel()
        ended.append((module, output.ndim if output.ndim == 3 or places > 1 else 0))

    hooks = [module.register_forward_hook(note) for module in names]
    try:
        with torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    runs = [module for module, _ in ended]
    for module, dimensions in reversed(ended):
        if dimensions and runs.count(module) == 1 and _all_passes(model, module, image):
            if dimensions == 3:
                break
            return names[module]
    raise Refused(
        f"--explain: {type(model).__name__} has no layer that gives (N, C, h, w), the "
        "last through which all of the image passes; tokens (N, L, C) have no places"
    )


def _all_passes(model: nn.Module, layer: nn.Module, image: Tensor) -> bool:
    """Whether the scores depend on the image through this layer's output alone."""
    image = image.detach().clone().requires_grad_()
    hook = layer.register_forward_hook(lambda module, given, output: output.detach())
    try:
        with torch.enable_grad():
            scores = model(image).sum()
    finally:
        hook.remove()
    if not scores.requires_grad:
        return True
    (slope,) = torch.autograd.grad(scores, image, allow_unused=True)
    return slope is None


def explained(
    model: nn.Module, layer: str, image: Tensor, seen: Tensor, label: int
) -> Tensor:
    """The image in grey, and in red the places that raise the score of the class.

    Without red, nothing in this layer speaks for the class. Red is scaled to the largest
    number of the picture.

    Args:
        layer: the name that `last_places` gave.
        image: (1, C, H, W), as the network gets it.
        seen: the same (1 or 3, H, W), from 0 to 1.

    Returns (3, H', W'), from 0 to 1, at least 224 a side.
    """
    target = torch.tensor([label], device=image.device)
    side = max(LEAST, seen.shape[-1])
    maps = grad_cam(model, model.get_submodule(layer), image, target)
    heat = heatmap(maps.float().cpu(), (side, side))
    grey = T.resize(seen.mean(dim=0, keepdim=True), [side, side])
    share = 0.6 * heat
    return grey * (1 - share) + share * torch.tensor(RED)[:, None, None]
