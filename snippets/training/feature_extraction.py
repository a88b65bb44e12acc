import torch
from torch import nn

from cnn_techniques.training import FrozenBackbone, extract_features

# --8<-- [start:usage]
torch.manual_seed(0)


def conv(inputs, outputs):
    return [nn.Conv2d(inputs, outputs, 3), nn.BatchNorm2d(outputs), nn.ReLU()]


# This network stands for one with published weights, less its classifier.
trained = nn.Sequential(*conv(3, 16), *conv(16, 32), nn.AdaptiveAvgPool2d(1)).double()
for _ in range(40):  # its batch norms know the images it was trained with
    trained(torch.rand(20, 3, 24, 24, dtype=torch.float64))
model = FrozenBackbone(nn.Sequential(trained, nn.Flatten()), nn.Linear(32, 3).double())
images = torch.rand(60, 3, 24, 24, dtype=torch.float64)  # the new ones are brighter
images = images * torch.rand(60, 1, 1, 1) + 0.3
labels = images.std(dim=(1, 2, 3)).argsort().argsort() // 20  # three thirds

before = {name: value.clone() for name, value in model.state_dict().items()}
features = extract_features(model.backbone, images.split(20))  # once for all epochs
optimizer = torch.optim.SGD(model.head.parameters(), lr=2.0, momentum=0.9)
model.train()
for _ in range(200):
    loss = nn.functional.cross_entropy(model.head(features), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

after = model.state_dict()
changed = [name for name in before if not torch.equal(before[name], after[name])]
right = (model.eval()(images).argmax(dim=1) == labels).double().mean()
print("features", tuple(features.shape), "- changed:", *changed)
print(f"above 90 % right through the whole network: {bool(right > 0.9)}")
# --8<-- [end:usage]
