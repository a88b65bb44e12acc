import torch
from torch import nn

from cnn_techniques.modern import mobilenet_v3_large, mobilenet_v3_small

# --8<-- [start:usage]
torch.manual_seed(0)
for make in (mobilenet_v3_small, mobilenet_v3_large):
    model = make(num_classes=10)
    images, labels = torch.randn(4, 3, 64, 96), torch.tensor([3, 1, 4, 1])
    scores = model(images)
    loss = nn.functional.cross_entropy(scores, labels)
    count = sum(p.numel() for p in model.parameters())
    print(f"{make.__name__}: {tuple(scores.shape)}, {count:,} parameters")
    print(f"  deviation of the scores {scores.std():.4f}, loss {loss:.4f}")
# --8<-- [end:usage]
