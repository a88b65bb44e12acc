import torch
from torch import nn

from cnn_techniques.training import layer_groups, train_last

# --8<-- [start:usage]
torch.manual_seed(0)


def conv(inputs, outputs):
    layers = [nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers)


# Of a network with published weights all but the head would be trained already.
head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 3))
net = nn.Sequential(conv(3, 8), conv(8, 16), conv(16, 32), head).double()
parts = list(net)  # from the image to the head
optimizer = torch.optim.SGD(layer_groups(net, parts, learning_rate=0.1), momentum=0.9)
for part, group in enumerate(optimizer.param_groups, start=1):
    count = sum(p.numel() for p in group["params"])
    print(f"part {part}: rate {group['lr']:.4f}, {count:5} parameters")

images = torch.rand(60, 3, 16, 16, dtype=torch.float64) * torch.rand(60, 1, 1, 1)
labels = images.std(dim=(1, 2, 3)).argsort().argsort() // 20  # three thirds
for epoch in range(1, 6):
    train_last(net, parts, epoch)  # in the place of net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    for rows in torch.randperm(60).split(20):
        loss = nn.functional.cross_entropy(net(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    now = net.state_dict()
    changed = [name for name in now if not torch.equal(before[name], now[name])]
    print(f"epoch {epoch}: changed parts", *sorted({int(n[0]) + 1 for n in changed}))
# --8<-- [end:usage]
