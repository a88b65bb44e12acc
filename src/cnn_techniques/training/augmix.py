"""AugMix: a blend of an image and of several chains of operations on it, and its loss.

Source: Hendrycks et al., "AugMix: A Simple Data Processing Method to Improve Robustness
and Uncertainty", ICLR 2020, arXiv:1912.02781; ranges as torchvision has them.
Legend: N images in the batch, C channels (1 or 3), H x W pixels, K classes, V views of
each image; k chains, m the share of the image itself.
"""

# --8<-- [start:imports]
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# --8<-- [end:imports]
from cnn_techniques.training.image_operations import (
    ImageOperation,
    Rows,
    operation_table,
    warp,
)


# --8<-- [start:module]
def _augmix_turn(degrees: float, height: int, width: int) -> Rows:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (cos, -sin, 0), (sin, cos, 0)


# Where each pixel comes from, by magnitude, height and width: what `warp` expects.
_AUGMIX_MOVES: dict[str, Callable[[float, int, int], Rows]] = {
    "ShearX": lambda s, height, width: ((1, s, s * height / 2), (0, 1, 0)),
    "ShearY": lambda s, height, width: ((1, 0, 0), (s, 1, s * width / 2)),
    "TranslateX": lambda s, height, width: ((1, 0, -int(s)), (0, 1, 0)),
    "TranslateY": lambda s, height, width: ((1, 0, 0), (0, 1, -int(s))),
    "Rotate": _augmix_turn,
}


def _augmix_move(name: str) -> Callable[[Tensor, float], Tensor]:
    def move(image: Tensor, magnitude: float) -> Tensor:
        height, width = image.shape[-2:]
        return warp(image, _AUGMIX_MOVES[name](magnitude, height, width), "bilinear")

    return move


class AugMixDraw(NamedTuple):
    """What is drawn for one image.

    Attributes:
        shares: (2,), m and 1 - m: of the image itself, and of all chains.
        weights: (k,), of each chain among the chains; their sum is 1.
        chains: k lists of operations, each with its name and its magnitude.
    """

    shares: Tensor
    weights: Tensor
    chains: list[list[tuple[str, float | None]]]


class AugMix:
    """Blend each image with chains of operations on it.

    Args:
        severity: from 1 to 10; magnitudes are the first `severity` of ten.
        mixture_width: k, how many chains.
        chain_depth: operations per chain; None draws 1, 2 or 3 for each chain.
        alpha: of the Dirichlet and Beta distributions; 1: all shares equally likely.
        all_ops: take brightness, colour, contrast and sharpness too.

    Shape: (C, H, W) or (N, C, H, W), uint8 -> the same; each image has its own draw.
    Random numbers: torch's global generator, in the order of torchvision.
    Raises: ValueError for a value out of range or images of another shape; TypeError
        for images that are not uint8.
    """

    def __init__(
        self,
        severity: int = 3,
        mixture_width: int = 3,
        chain_depth: int | None = None,
        alpha: float = 1.0,
        all_ops: bool = False,
    ) -> None:
        if severity not in range(1, 11):
            raise ValueError(f"expected a severity from 1 to 10, got {severity=}")
        if mixture_width < 1:
            raise ValueError(f"expected 1 chain or more, got {mixture_width=}")
        if chain_depth is not None and chain_depth < 1:
            raise ValueError(f"expected 1 operation or more, got {chain_depth=}")
        if not 0 < alpha < math.inf:
            raise ValueError(f"expected alpha above 0, got {alpha=}")
        self.severity, self.mixture_width = severity, mixture_width
        self.chain_depth, self.alpha, self.all_ops = chain_depth, alpha, all_ops

    def operations(self, height: int, width: int) -> dict[str, ImageOperation]:
        """Those for an image of this size, with ten magnitudes."""
        # --8<-- [start:ranges]
        shift = [width / 3, height / 3]
        table = operation_table(
            10, shear=0.3, shift=shift, angle=30.0, change=0.9, bits=4
        )
        for name in _AUGMIX_MOVES:
            table[name] = table[name]._replace(function=_augmix_move(name))
        kept = table["Posterize"].magnitudes
        assert kept is not None
        table["Posterize"] = table["Posterize"]._replace(magnitudes=kept - 4)
        names = [*_AUGMIX_MOVES, "Posterize", "Solarize", "AutoContrast", "Equalize"]
        if self.all_ops:
            names += ["Brightness", "Color", "Contrast", "Sharpness"]
        return {name: table[name] for name in names}
        # --8<-- [end:ranges]

    def draw(self, height: int, width: int) -> AugMixDraw:
        """Shares, weights and chains for one image of this size."""
        table = self.operations(height, width)
        names = list(table)
        # --8<-- [start:draw]
        dirichlet = torch.distributions.Dirichlet
        shares = dirichlet(torch.full((2,), self.alpha)).sample()  # m ~ Beta
        weights = dirichlet(torch.full((self.mixture_width,), self.alpha)).sample()
        chains = []
        for _ in range(self.mixture_width):
            depth = self.chain_depth or int(torch.randint(1, 4, ()))
            chain = []
            for _ in range(depth):
                name = names[int(torch.randint(len(names), ()))]
                operation, bin = table[name], 0
                if operation.magnitudes is not None:
                    bin = int(torch.randint(self.severity, ()))
                chain.append((name, operation.magnitude(bin)))
            chains.append(chain)
        # --8<-- [end:draw]
        return AugMixDraw(shares, weights, chains)

    def mix(self, image: Tensor, draw: AugMixDraw) -> Tensor:
        """Apply a draw to an image.

        Shape: (C, H, W), uint8 -> the same; values are rounded down.
        """
        table = self.operations(*image.shape[-2:])
        # --8<-- [start:mix]
        m, rest = draw.shares  # m and 1 - m
        mixed = m * image  # (C, H, W), float32
        for weight, chain in zip(draw.weights * rest, draw.chains, strict=True):
            x = image
            for name, magnitude in chain:
                x = table[name](x, magnitude)
            mixed = mixed + weight * x
        return mixed.to(torch.uint8)
        # --8<-- [end:mix]

    def __call__(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise TypeError(f"expected images of torch.uint8, got {images.dtype}")
        if images.ndim not in (3, 4) or images.numel() == 0:
            raise ValueError(
                "expected an image (C, H, W) or images (N, C, H, W), "
                f"got {tuple(images.shape)}"
            )
        if images.ndim == 4:
            return torch.stack([self(image) for image in images])
        return self.mix(images, self.draw(*images.shape[-2:]))


def jensen_shannon(logits: Tensor) -> Tensor:
    """How far the predictions for the views of an image are apart, mean of the images.

    Args:
        logits: (V, N, K), V views of N images.

    Shape: (V, N, K) -> (), from 0 (the same for all views) to log V.
    Raises: ValueError for another shape.
    """
    if logits.ndim != 3 or logits.numel() == 0:
        raise ValueError(f"expected logits (V, N, K), got {tuple(logits.shape)}")
    # --8<-- [start:divergence]
    log_p = logits.log_softmax(dim=2)  # (V, N, K)
    log_mean = log_p.logsumexp(dim=0) - math.log(len(logits))  # (N, K), log M
    return (log_p.exp() * (log_p - log_mean)).sum(dim=2).mean()
    # --8<-- [end:divergence]


def jsd_cross_entropy(
    logits: Tensor, labels: Tensor, views: int = 3, weight: float = 12.0
) -> Tensor:
    """Cross-entropy of the images as they are, and the divergence of their views.

    Args:
        logits: (V * N, K): first those of the N images as they are, then those of
            their second views in the same order, and so on.
        labels: (N,) integers, or (N, K) distributions.
        views: V, 2 or more.
        weight: lambda, of the divergence.

    Shape: (V * N, K), (N,) or (N, K) -> ().
    Raises: ValueError for shapes that do not fit, too few views or a weight below 0.
    """
    if views < 2 or not 0 <= weight < math.inf:
        raise ValueError(
            f"expected 2 views or more and a weight of 0 or more, "
            f"got {views=}, {weight=}"
        )
    n = len(labels) if labels.ndim else 0
    if logits.ndim != 2 or n == 0 or len(logits) != views * n:
        raise ValueError(
            f"expected logits ({views} * N, K) and N labels, "
            f"got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    # --8<-- [start:loss]
    by_view = logits.reshape(views, n, -1)  # (V, N, K)
    clean = F.cross_entropy(by_view[0], labels)
    return clean + weight * jensen_shannon(by_view)
    # --8<-- [end:loss]


# --8<-- [end:module]
