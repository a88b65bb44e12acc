import torch
from torch import nn

from cnn_techniques.foundations import ALEXNET, ALEXNET_PAPER, AlexNet

# --8<-- [start:usage]
torch.manual_seed(0)
images, labels = torch.randn(4, 3, 96, 128), torch.tensor([3, 1, 4, 1])
for name, layers in (("alexnet", ALEXNET), ("alexnet_paper", ALEXNET_PAPER)):
    model = AlexNet(num_classes=10, layers=layers).eval()
    maps = model.features(images)
    scores = model(images)
    loss = nn.functional.cross_entropy(scores, labels)
    print(f"{name}: maps {tuple(maps.shape)}, scores {tuple(scores.shape)}")
    print(f"  loss of the untrained network: {loss:.4f}")
    print(f"  {sum(p.numel() for p in model.parameters()):,} parameters")
# --8<-- [end:usage]
