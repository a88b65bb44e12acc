import torch
from torch.nn import functional as F

from cnn_techniques.training import Mixup

# --8<-- [start:usage]
torch.manual_seed(0)
mix = Mixup(classes=10, alpha=0.2)
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(8 * 8, 10))
sgd = torch.optim.SGD(net.parameters(), lr=0.1)
images = torch.rand(16, 1, 8, 8)  # these two stand for a data loader
labels = torch.randint(10, (16,))

for step in range(3):
    x, y = mix(images, labels)  # mixed images, (16, 10) soft labels
    loss = F.cross_entropy(net(x), y)  # takes soft labels as they are
    sgd.zero_grad()
    loss.backward()
    sgd.step()
    print(f"step {step}: loss {loss:.4f}, largest label of image 0 {y[0].max():.3f}")
print(tuple(x.shape), tuple(y.shape))
# --8<-- [end:usage]
