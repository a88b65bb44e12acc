import torch
from torch import nn

from cnn_techniques.modern import UniversalInvertedBottleneck, mobilenetv4_conv_small

# --8<-- [start:usage]
torch.manual_seed(0)
model = mobilenetv4_conv_small(num_classes=10)
images, labels = torch.randn(4, 3, 64, 96), torch.tensor([3, 1, 4, 1])
scores = model(images)
print(f"scores: {tuple(scores.shape)}, standard deviation {scores.std():.3f}")
loss = nn.functional.cross_entropy(scores, labels)
print(f"loss of the untrained network: {loss:.3f}")
print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
kinds = {"IB": (0, 3), "ConvNeXt": (3, 0), "ExtraDW": (3, 3), "FFN": (0, 0)}
for kind, (start, middle) in kinds.items():
    block = UniversalInvertedBottleneck(96, 384, 96, start, middle).eval()
    weights = sum(p.numel() for p in block.parameters() if p.ndim == 4)
    dot = torch.zeros(1, 96, 9, 9)
    dot[:, :, 4, 4] = 1
    seen = (block(dot) != block(0 * dot)).any(dim=1).sum()
    print(f"{kind}: {weights:,} weights, one pixel reaches {seen}")
# --8<-- [end:usage]
