import torch
from torch import nn

from cnn_techniques.compression import quantization_aware_training_

# --8<-- [start:usage]
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
images = torch.randn(2, 3, 16, 16)
before = network(images)
quantization_aware_training_(network, share=0.5)
zeros = sum(int((p == 0).sum()) for p in network.parameters())
change = (network(images) - before).norm() / before.norm()
print(f"{zeros} weights are zero; the output moves by {change:.2f} of its size")  # TODO
# --8<-- [end:usage]
