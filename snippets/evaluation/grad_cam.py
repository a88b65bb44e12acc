import torch
from torch import nn

from cnn_techniques.evaluation import grad_cam

# --8<-- [start:usage]
torch.manual_seed(0)
edge = torch.tensor([[1.0, 0.0, -1.0]] * 3)  # answers to upright edges
network = nn.Sequential(
    nn.Conv2d(1, 4, 3, bias=False),
    nn.ReLU(inplace=True),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(4, 2),
).eval()
with torch.no_grad():  # no training: what each class rests on is known
    network[0].weight[:, 0] = torch.stack([edge, -edge, edge.T, -edge.T])
    network[4].weight[:] = torch.tensor([[1.0, 1, -1, -1], [-1, -1, 1, 1]])

bars = (torch.arange(24) % 8 < 4).float().expand(24, 24)
image = 0.1 * torch.randn(1, 1, 32, 64)
image[..., 4:28, 4:28] += bars  # upright bars left, lying ones right
image[..., 4:28, 36:60] += bars.T

for name, label in (("upright", 0), ("lying", 1)):
    cam = grad_cam(network, network[1], image, torch.tensor([label]))[0]  # (30, 62)
    left = cam[:, :31].sum() / cam.sum()
    print(f"{name} bars: {left:.0%} of the map is left, {1 - left:.0%} right")
# --8<-- [end:usage]
