from collections import OrderedDict

import torch
from torch import nn

from cnn_techniques.evaluation import cost_by_layer, model_cost

# --8<-- [start:usage]
with torch.device("meta"):  # shapes without values: nothing is computed
    network = nn.Sequential(
        OrderedDict(
            conv1=nn.Sequential(
                nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
            ),
            conv2=nn.Sequential(
                nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
            ),
            conv3=nn.Sequential(
                nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
            ),
            fc1=nn.Sequential(nn.Flatten(), nn.Linear(128 * 4 * 4, 256), nn.ReLU()),
            fc2=nn.Linear(256, 10),
        )
    )
    image = torch.empty(1, 3, 32, 32)
cost = model_cost(network, image)
print(
    f"{cost.params:,} parameters, {cost.macs:,} MACs, {cost.activations:,} activations"
)
print(f"{cost.saved_bytes:,} bytes kept for the backward pass")
for name, layer in cost_by_layer(network, image).items():
    if layer.macs:
        params, macs = layer.params / cost.params, layer.macs / cost.macs
        print(f"{name:8}{params:6.1%} of the parameters {macs:6.1%} of the MACs")
# --8<-- [end:usage]
