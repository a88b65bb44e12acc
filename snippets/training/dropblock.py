import torch
from torch import nn

from cnn_techniques.training import DropBlock

# --8<-- [start:usage]
torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(3, 128, 3, padding=1),
    nn.Sigmoid(),  # has no zeros of its own
    DropBlock(p=0.25, block_size=7),
)
images = torch.rand(256, 3, 14, 14)

with torch.no_grad():
    features, out = net[:2](images), net(images)
    print(f"dropped of all positions: {(out == 0).float().mean():.2f}")
    print(f"mean over the mean before: {out.mean() / features.mean():.2f}")
    print(f"in evaluation: {(net.eval()(images) == 0).float().mean():.2f}")
# --8<-- [end:usage]
