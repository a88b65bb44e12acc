"""Knowledge distillation: learn from what a larger network thinks of every class.

Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015,
arXiv:1503.02531, section 2.
Legend: N images, K classes, z logits of the student, v logits of the teacher,
T temperature, p and q softened probabilities of the teacher and the student.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
def distillation_loss(
    z: Tensor, v: Tensor, labels: Tensor, temperature: float, alpha: float
) -> Tensor:
    """Pull the student to the teacher's soft targets, and a little to the labels.

    Args:
        z: (N, K), logits of the student; the gradient goes here.
        v: (N, K), logits of the teacher for the same images; detached. A class that the
            teacher excludes, by -inf, adds nothing to the soft part.
        labels: (N,), class indices, integers of any width.
        temperature: T above 0; 1 keeps the probabilities as they are (paper: 1 to 20).
        alpha: weight of the soft targets, from 0, labels only, to 1, teacher only
            (paper: the labels get the considerably lower weight).

    Shape: (N, K), (N, K), (N,) -> a scalar, the mean over the images.
    Raises: ValueError for another shape or a value out of range; TypeError for logits
        that are not floating point or labels that are not integers.
    """
    if not temperature > 0 or temperature == float("inf"):
        raise ValueError(f"expected a finite temperature above 0, got {temperature}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"expected alpha from 0 to 1, got {alpha}")
    if z.ndim != 2 or v.shape != z.shape or labels.shape != z.shape[:1]:
        raise ValueError(
            "expected logits (N, K) of student and teacher and labels (N,), "
            f"got {tuple(z.shape)}, {tuple(v.shape)}, {tuple(labels.shape)}"
        )
    if not (z.is_floating_point() and v.is_floating_point()):
        raise TypeError(f"expected floating-point logits, got {z.dtype} and {v.dtype}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise TypeError(f"expected labels of integers, got {labels.dtype}")
    # --8<-- [start:soft]
    log_q = torch.log_softmax(z / temperature, dim=1)  # (N, K)
    log_p = torch.log_softmax(v.detach() / temperature, dim=1)  # (N, K)
    p = log_p.exp()
    kl = torch.where(p > 0, p * (log_p - log_q), 0).sum(dim=1).mean()  # 0 log 0 is 0
    # --8<-- [end:soft]
    hard = nn.functional.cross_entropy(z, labels.long())
    return alpha * temperature**2 * kl + (1 - alpha) * hard


# --8<-- [end:module]
