"""Feature extraction: a trained network is frozen, a new head learns from its outputs.

Source: Donahue et al., "DeCAF: A Deep Convolutional Activation Feature for Generic
Visual Recognition", ICML 2014, arXiv:1310.1531.
Legend: N images, D features per image, K classes.
"""

# --8<-- [start:imports]
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
def freeze(module: nn.Module) -> nn.Module:
    """Stop all learning of a module, in place, and return it.

    Its parameters get no gradient and lose the one they have, which an optimizer would
    still follow. Evaluation mode makes batch norms use and keep the statistics that
    they have, and turns dropout off; it lasts until somebody calls `train()`.
    """
    # --8<-- [start:freeze]
    module.requires_grad_(False)
    module.eval()
    # --8<-- [end:freeze]
    for parameter in module.parameters():
        parameter.grad = None
    return module


class FrozenBackbone(nn.Module):
    """A frozen network and a head that is trained.

    Args:
        backbone: is frozen, in place; returns what the head takes.
        head: the only part with parameters that an optimizer has to get.

    Shape: (N, ...) -> (N, D) in the backbone -> (N, K) in the head.
    `train()` reaches the head alone: the backbone stays in evaluation mode.
    Raises: ValueError for a head that shares parameters with the backbone, or has none.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        own = set(head.parameters())
        if not own or own & set(backbone.parameters()):
            raise ValueError(
                f"expected a head with parameters of its own, got {type(head).__name__}"
            )
        self.backbone = freeze(backbone)
        self.head = head

    # --8<-- [start:train]
    def train(self, mode: bool = True) -> "FrozenBackbone":
        super().train(mode)
        self.backbone.eval()
        return self

    # --8<-- [end:train]

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.backbone(x))  # (N, D) -> (N, K)
        return scores


# --8<-- [start:cache]
@torch.no_grad()
def extract_features(backbone: nn.Module, batches: Iterable[Tensor]) -> Tensor:
    """The outputs of a frozen network, computed once for all epochs.

    Args:
        backbone: after `freeze`.
        batches: of images, in the order of their labels.

    Returns the features of all batches, (N, D).
    Raises: ValueError where a part is in training mode, or for no batch.
    """
    trains = [name or "it" for name, m in backbone.named_modules() if m.training]
    if trains:
        raise ValueError(f"expected a frozen backbone, but {trains[0]} trains")
    features = [backbone(images) for images in batches]
    if not features:
        raise ValueError("expected one batch or more, got none")
    return torch.cat(features)


# --8<-- [end:cache]
# --8<-- [end:module]
