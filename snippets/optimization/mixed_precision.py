import math

import torch

from cnn_techniques.optimization import LossScaler

# --8<-- [start:usage]
torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Conv2d(3, 16, 3),
    torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(1),
    torch.nn.Flatten(),
    torch.nn.Linear(16, 10),
)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
scaler = LossScaler(init_scale=2.0**21, growth_interval=3)  # short, to see it grow
images, labels = torch.randn(16, 3, 12, 12), torch.randint(10, (16,))
for step in range(7):
    with torch.autocast("cpu", dtype=torch.float16):  # "cuda" on a GPU
        loss = torch.nn.functional.cross_entropy(net(images), labels)
    optimizer.zero_grad()
    power = math.log2(scaler.get_scale())
    scaler.scale(loss).backward()
    made = scaler.step(optimizer)
    scaler.update()
    print(f"step {step}: scale 2^{power:.0f}, {'made' if made else 'left out'}")
# --8<-- [end:usage]
