# --8<-- [start:usage]
import torch
from torch import nn

from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import MobileNetV1


def within(macs: float, widths: list[float], sizes: list[int]) -> list[tuple]:
    """(MACs, parameters, width, size) of each MobileNet v1 within a budget of MACs."""
    fits = []
    for width in widths:
        with torch.device("meta"):  # counted, not computed
            network: nn.Module = MobileNetV1(width=width).eval()
        for size in sizes:
            cost = model_cost(network, torch.empty(1, 3, size, size, device="meta"))
            if cost.macs <= macs:
                fits.append((cost.macs, cost.params, width, size))
    return sorted(fits, reverse=True)


# --8<-- [end:usage]
