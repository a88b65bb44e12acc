import torch
from torch import Tensor, nn

from cnn_techniques.optimization import (
    accumulate_gradients,
    clip_gradient_norm,
    gradient_norm,
)

# --8<-- [start:usage]
torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(3, 16, 3),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(16, 10),
)
optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
images = torch.randn(50, 3, 12, 12)  # these two stand for one large batch
labels = torch.randint(10, (50,))


def loss(x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(net(x), y)


for step in range(3):
    parts = zip(images.split(16), labels.split(16), strict=True)  # 16, 16, 16, 2
    optimizer.zero_grad()
    mean = accumulate_gradients(loss, list(parts))
    before = clip_gradient_norm(net.parameters(), max_norm=0.2)
    after = gradient_norm(net.parameters())
    optimizer.step()
    print(f"step {step}: loss {mean:.3f}, norm {before:.3f}, clipped to {after:.3f}")
# --8<-- [end:usage]
