import torch
from torch import nn

from cnn_techniques.optimization import Muon

# --8<-- [start:usage]
torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1, bias=False),
    nn.BatchNorm2d(16),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, padding=1, bias=False),
    nn.BatchNorm2d(32),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(32, 10),
).double()
hidden = net[3].weight  # matrices and convolutions inside: Muon
rest = [p for p in net.parameters() if p is not hidden]  # AdamW
optimizer = Muon(
    [{"params": [hidden]}, {"params": rest, "use_muon": False}],
    lr=0.01,
    match_rms_adamw=True,  # one rate fits both
    dtype=torch.float64,  # here to print the same everywhere; bfloat16 is usual
)
images = torch.rand(64, 3, 8, 8).double()  # these two stand for a data loader
labels = torch.randint(10, (64,))

for step in range(11):
    loss = nn.functional.cross_entropy(net(images), labels)
    optimizer.zero_grad()
    loss.backward()
    before = hidden.detach().clone()
    optimizer.step()
    if step % 5 == 0:
        S = torch.linalg.svdvals((before - hidden.detach()).flatten(1))
        S = S / (0.01 * 0.2 * 144**0.5)  # of the update (32, 16 * 3 * 3)
        print(f"step {step:2d}: loss {loss:.2f}, singular", end=" ")
        print(f"values {S.min():.2f} to {S.max():.2f}")
# --8<-- [end:usage]
