import torch
from torch.nn import functional as F

from cnn_techniques.foundations import (
    LeNet5,
    LeNet5Paper,
    lenet5_codes,
    lenet5_map_loss,
)

# --8<-- [start:usage]
torch.manual_seed(0)
drawings = F.interpolate(lenet5_codes().view(10, 1, 12, 7), scale_factor=2)
drawings = F.pad(drawings, (9, 9, 4, 4), value=-1.0)  # (10, 1, 32, 32)
labels = torch.arange(10)
for model, criterion in (
    (LeNet5(), F.cross_entropy),
    (LeNet5Paper(), lenet5_map_loss),
):
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(60):
        noisy = drawings + 0.5 * torch.randn(10, 1, 32, 32)
        loss = criterion(model(noisy), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    output = model(drawings + 0.5 * torch.randn(10, 1, 32, 32))
    if isinstance(model, LeNet5Paper):
        output = -output  # penalties: the smallest one wins
    read = (output.argmax(dim=1) == labels).sum()
    size = sum(p.numel() for p in model.parameters())
    print(f"{type(model).__name__}: {size} parameters, {read} of 10 drawings read")
# --8<-- [end:usage]
