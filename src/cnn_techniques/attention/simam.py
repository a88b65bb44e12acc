"""SimAM: gate every entry by its distance from the mean of its channel; no parameters.

Source: Yang et al., "SimAM: A Simple, Parameter-Free Attention Module for Convolutional
Neural Networks", ICML 2021; module simam_module of the authors' code.
Legend: N images, C channels, H x W pixels.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor, nn

# --8<-- [end:imports]


# --8<-- [start:module]
class SimAM(nn.Module):
    """Multiply every entry by a gate that grows with its distance from the mean.

    Args:
        lambda_: λ, which keeps the gate finite where a channel is constant. It stands
            beside the variance, so that its effect depends on the scale of the input.

    Shape: (N, C, H, W) -> (N, C, H, W), for any C, and two pixels or more.
    Parameters: none.
    Raises: ValueError for a λ not above 0, or an input of another shape.
    """

    def __init__(self, lambda_: float = 1e-4) -> None:
        super().__init__()
        if not lambda_ > 0:
            raise ValueError(f"expected a λ above 0, got {lambda_=}")
        self.lambda_ = lambda_

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4 or x.shape[2] * x.shape[3] < 2:
            wanted = "(N, C, H, W) with two pixels or more"
            raise ValueError(f"expected {wanted}, got {tuple(x.shape)}")
        # --8<-- [start:statistics]
        d = (x - x.mean(dim=(2, 3), keepdim=True)).square()  # (N, C, H, W)
        others = x.shape[2] * x.shape[3] - 1
        variance = d.sum(dim=(2, 3), keepdim=True) / others  # (N, C, 1, 1)
        # --8<-- [end:statistics]
        # --8<-- [start:energy]
        inverse_energy = d / (4 * (variance + self.lambda_)) + 0.5  # (N, C, H, W)
        # --8<-- [end:energy]
        # --8<-- [start:gate]
        return x * torch.sigmoid(inverse_energy)  # (N, C, H, W)
        # --8<-- [end:gate]

    def extra_repr(self) -> str:
        return f"lambda_={self.lambda_}"


# --8<-- [end:module]
