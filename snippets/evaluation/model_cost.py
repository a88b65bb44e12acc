import torch
from torch import nn

from cnn_techniques.evaluation import cost_by_layer, model_cost

# --8<-- [start:usage]
with torch.device("meta"):  # shapes without values: nothing is computed
    network = nn.Sequential(
        *(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128 * 4 * 4, 256), nn.ReLU()),
        nn.Linear(256, 10),
    )
    image = torch.empty(1, 3, 32, 32)
cost = model_cost(network, image)
print(
    f"{cost.params:,} parameters, {cost.macs:,} MACs, {cost.activations:,} activations"
)
print(f"{cost.saved_bytes:,} bytes kept for the backward pass")
for name, row in cost_by_layer(network, image).items():
    if row.macs:
        params, macs = row.params / cost.params, row.macs / cost.macs
        print(f"layer {name:2} {params:6.1%} of the parameters {macs:6.1%} of the MACs")
# --8<-- [end:usage]
