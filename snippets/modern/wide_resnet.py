import torch
from torch import nn

from cnn_techniques.modern import WideResNet, wide_resnet50_2

# --8<-- [start:usage]
torch.manual_seed(0)
images, labels = torch.randn(4, 3, 16, 24), torch.tensor([3, 1, 4, 1])
for depth, widening in ((40, 1), (16, 2), (16, 4)):
    model = WideResNet(depth, widening)
    scores = model(images)
    loss = nn.functional.cross_entropy(scores, labels)
    size = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"WRN-{depth}-{widening}: {size:.2f} M parameters, loss {loss:.2f}")

with torch.device("meta"):  # shapes without memory
    model = wide_resnet50_2()
    maps = model.features(torch.empty(1, 3, 224, 224))
for name, output in zip(model.stages, maps, strict=True):
    middle = model.get_submodule(name)[0].conv2.out_channels
    print(f"{name} of WRN-50-2: middle {middle}, output {output.shape[1]} channels")
# --8<-- [end:usage]
