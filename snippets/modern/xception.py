import torch
from torch import nn

from cnn_techniques.modern import XCEPTION_FLOWS, xception

# --8<-- [start:usage]
torch.manual_seed(0)
model = xception(num_classes=10)
images, labels = torch.randn(2, 3, 64, 96), torch.tensor([3, 1])
model.train(False)
print(f"last maps: {tuple(model.features(images).shape)}")
for flow in XCEPTION_FLOWS:
    count = sum(p.numel() for p in model.get_submodule(flow).parameters())
    print(f"{flow} flow: {count:,} parameters")
loss = nn.functional.cross_entropy(model.train()(images), labels)
print(f"loss of the untrained network: {loss:.3f}")
pointwise = sum(
    p.numel() for name, p in model.named_parameters() if "pointwise" in name
)
total = sum(p.numel() for p in model.parameters())
print(f"{total:,} parameters, {pointwise / total:.0%} of them pointwise")
# --8<-- [end:usage]
