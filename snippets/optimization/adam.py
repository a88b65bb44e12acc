import torch
from torch import nn

from cnn_techniques.optimization import Adam

# --8<-- [start:usage]
for unit in (1, 1000):  # a loss in other units leads to the same steps
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    ).double()
    optimizer = Adam(net.parameters(), lr=0.02)
    images = torch.rand(64, 1, 8, 8).double()  # these two stand for a data loader
    labels = torch.randint(10, (64,))
    losses = []
    for _ in range(31):
        loss = nn.functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        (unit * loss).backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"loss times {unit:4}:", *(f"{x:.3f}" for x in losses[::10]))
# --8<-- [end:usage]
