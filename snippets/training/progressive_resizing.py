import torch
from torch import nn
from torch.nn import functional as F

from cnn_techniques.training import ProgressiveLearning, resize_batch, set_dropout

# --8<-- [start:usage]
torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(3, 8, 3, stride=2),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),  # any size of image fits
    nn.Flatten(),
    nn.Dropout(),
    nn.Linear(8, 10),
)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
plan = ProgressiveLearning(8, sizes=(32, 74), strengths={"dropout": (0.1, 0.4)})
images, labels = torch.rand(16, 3, 74, 74), torch.arange(16) % 10

for step in range(8):
    stage = plan.at(step)
    set_dropout(net, stage.strengths["dropout"])
    x = resize_batch(images, stage.size)
    loss = F.cross_entropy(net(x), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step}: {x.shape[-1]} pixels, dropout {net[4].p:.1f}")
# --8<-- [end:usage]
