"""What in an image speaks for its class: Grad-CAM at the last layer that knows of places."""

import torch
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as T

from cnn_techniques.evaluation import grad_cam, heatmap

from .stop import Refused

LEAST = 224  # pixels of a picture's side: smaller ones are enlarged
RED = (1.0, 0.1, 0.0)


def last_places(model: nn.Module, images: Tensor) -> str:
    """The name of the last module to give (N, C, h, w) with more than one place.

    Raises: Refused where there is none, or where what follows it is of another shape:
    what a transformer makes of patches is in rows, which have no places.
    """
    names = {module: name for name, module in model.named_modules()}
    ended: list[tuple[str, tuple[int, ...]]] = []

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor):
            ended.append((names[module], tuple(output.shape)))

    hooks = [module.register_forward_hook(note) for module in names]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    runs = [name for name, _ in ended]
    found = ""
    for name, shape in ended:
        if len(shape) == 4 and shape[2] * shape[3] > 1 and runs.count(name) == 1:
            found = name
        elif len(shape) == 3:
            found = ""
    if not found:
        raise Refused(
            f"--explain: {type(model).__name__} has no layer whose output (N, C, h, w) has "
            "places and leads to the scores by such layers and pooling alone"
        )
    return found


def explained(model: nn.Module, image: Tensor, seen: Tensor, label: int) -> Tensor:
    """The image in grey, and in red what speaks for the class.

    Args:
        image: (1, C, H, W), as the network gets it.
        seen: the same (1 or 3, H, W), from 0 to 1.

    Returns (3, H', W'), from 0 to 1, at least 224 a side.
    """
    layer = model.get_submodule(last_places(model, image))
    target = torch.tensor([label], device=image.device)
    side = max(LEAST, seen.shape[-1])
    heat = heatmap(grad_cam(model, layer, image, target).cpu(), (side, side))
    grey = T.resize(seen.mean(dim=0, keepdim=True), [side, side])
    share = 0.6 * heat
    return grey * (1 - share) + share * torch.tensor(RED)[:, None, None]
