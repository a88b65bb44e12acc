# --8<-- [start:imports]
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

# --8<-- [end:imports]
from cnn_techniques.compression import (
    apply_masks,
    prune_iteratively,
    pruning_rounds,
    shuffled,
    sparsity_of,
)

# --8<-- [start:usage]
torch.manual_seed(0)
rows = torch.randn(256, 20, dtype=torch.float64)
truth = (rows[:, :5].sum(dim=1) > 0).long()  # five of twenty inputs matter
network = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 2)).double()
start = {name: value.clone() for name, value in network.state_dict().items()}


def train(model: nn.Module, masks: dict[str, Tensor]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(rows), truth).backward()
        optimizer.step()
        apply_masks(model, masks)
    right = (model(rows).argmax(dim=1) == truth).double().mean()
    print(f"  {sparsity_of(masks) if masks else 0:.0%} pruned: {right:.0%} right")


train(network, {})
masks = prune_iteratively(network, train, sparsity=0.9, rounds=3, rewind_to=start)
inputs = masks["0.weight"].sum(dim=0)
print(f"weights left to the five inputs {int(inputs[:5].sum())}, others", end=" ")
print(int(inputs[5:].sum()))
# --8<-- [end:usage]
