"""Domain adaptation: features of labelled images and of unlabelled ones are made alike.

Source: Ganin et al., "Domain-Adversarial Training of Neural Networks", JMLR 17(59),
2016, arXiv:1505.07818 (DANN); Sun and Saenko, "Deep CORAL: Correlation Alignment for
Deep Domain Adaptation", ECCV Workshops 2016, arXiv:1607.01719 (CORAL).
Legend: S the source (images with labels), T the target (without), N_S and N_T images,
d features, lambda the weight of the domain term, p the share of the training done.
"""

# --8<-- [start:imports]
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
# --8<-- [start:reversal]
class ReverseGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by -factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.factor * gradient, None
        # --8<-- [end:reversal]


def reversal_factor(p: float, gamma: float = 10.0) -> float:
    """The weight lambda at a share p of the training: 0 at first, nearly 1 at its end.

    Args:
        p: from 0 to 1.
        gamma: how early it rises; above 0 (paper: 10).

    Raises: ValueError for other values.
    """
    if not 0 <= p <= 1:
        raise ValueError(f"expected a share p from 0 to 1, got {p}")
    if not 0 < gamma < math.inf:
        raise ValueError(f"expected a finite gamma above 0, got {gamma}")
    # --8<-- [start:factor]
    return 2 / (1 + math.exp(-gamma * p)) - 1
    # --8<-- [end:factor]


def domain_adversarial_loss(
    source: Tensor, target: Tensor, classifier: nn.Module, factor: float
) -> Tensor:
    """The loss of a classifier of domains; the features are trained to raise it.

    The classifier learns to tell source from target; the gradient that reaches the
    features is reversed, so that the domains become harder to tell apart.

    Args:
        source: (N_S, d), features of source images.
        target: (N_T, d), features of target images.
        classifier: from (N, d) to (N, 1), the logit of "from the target".
        factor: lambda, 0 or above; at 0 the classifier learns and the features do not.

    Shape: (N_S, d), (N_T, d) -> a scalar, the mean of both domains' mean losses
    (equation 10 of the paper adds them).
    Raises: ValueError for other shapes or a negative factor.
    """
    _check_domain_adaptation(source, target, least=1)
    if not 0 <= factor < math.inf:
        raise ValueError(f"expected a finite factor of 0 or above, got {factor}")
    # --8<-- [start:adversarial]
    features = torch.cat([source, target])  # (N_S + N_T, d)
    logits = classifier(ReverseGradient.apply(features, factor))  # (N_S + N_T, 1)
    # --8<-- [end:adversarial]
    if logits.shape != (len(features), 1):
        raise ValueError(
            f"expected logits ({len(features)}, 1) of the classifier, "
            f"got {tuple(logits.shape)}"
        )
    # --8<-- [start:domains]
    of_source, of_target = logits.split([len(source), len(target)])
    zeros, ones = torch.zeros_like(of_source), torch.ones_like(of_target)
    missed_source = F.binary_cross_entropy_with_logits(of_source, zeros)
    missed_target = F.binary_cross_entropy_with_logits(of_target, ones)
    return (missed_source + missed_target) / 2
    # --8<-- [end:domains]


def coral_loss(source: Tensor, target: Tensor) -> Tensor:
    """The squared distance of the covariances of two sets of features, over 4 d^2.

    Args:
        source: (N_S, d), at least two rows.
        target: (N_T, d), at least two rows.

    Shape: (N_S, d), (N_T, d) -> a scalar.
    Raises: ValueError for other shapes.
    """
    _check_domain_adaptation(source, target, least=2)
    # --8<-- [start:coral]
    d = source.shape[1]
    distance = covariance(source) - covariance(target)  # (d, d)
    return distance.square().sum() / (4 * d**2)
    # --8<-- [end:coral]


def covariance(features: Tensor) -> Tensor:
    """The covariance of the columns, over N - 1: (N, d) -> (d, d)."""
    # --8<-- [start:covariance]
    centred = features - features.mean(dim=0)  # (N, d)
    return centred.T @ centred / (len(features) - 1)
    # --8<-- [end:covariance]


def _check_domain_adaptation(source: Tensor, target: Tensor, least: int) -> None:
    alike = source.ndim == target.ndim == 2 and source.shape[1] == target.shape[1]
    if not alike or min(len(source), len(target)) < least:
        raise ValueError(
            f"expected features (N, d) of both domains, N at least {least}, got "
            f"{tuple(source.shape)} and {tuple(target.shape)}"
        )


# --8<-- [end:module]
