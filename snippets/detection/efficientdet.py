import torch

from cnn_techniques.detection import EfficientDetAndBiFPN

# --8<-- [start:usage]
torch.manual_seed(0)
network = EfficientDetAndBiFPN(num_classes=10)  # TODO a small variant
images = torch.randn(2, 3, 64, 64)
scores = network(images)
print(tuple(scores.shape), sum(p.numel() for p in network.parameters()))
# TODO a value that a reader can check, the same on every processor
print(f"scores between {scores.min():.2f} and {scores.max():.2f}")
# --8<-- [end:usage]
