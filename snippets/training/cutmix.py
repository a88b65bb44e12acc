import torch
from torch.nn import functional as F

from cnn_techniques.training import CutMix

# --8<-- [start:usage]
torch.manual_seed(0)
mix = CutMix(classes=10)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
images = torch.rand(16, 3, 32, 32)  # these two stand for a data loader
labels = torch.arange(16) % 10

for step in range(3):
    x, y = mix(images, labels)  # mixed images, (16, 10) soft labels
    loss = F.cross_entropy(net(x), y)  # takes soft labels as they are
    kept = (x[0] == images[0]).float().mean()
    print(f"step {step}: kept {kept:.3f}, label {y[0, 0]:.3f}, loss {loss:.2f}")
# --8<-- [end:usage]
