import torch
from torch import nn

from cnn_techniques.training import WeightEMA

# --8<-- [start:usage]
torch.manual_seed(0)
truth = torch.randn(1, 20, dtype=torch.float64)
net = nn.Linear(20, 1, bias=False).double()
optimizer = torch.optim.SGD(net.parameters(), lr=0.02)
mean = WeightEMA(net, decay=0.98, debias=True)  # over about 50 steps

probe = torch.randn(1000, 20, dtype=torch.float64)

for step in range(1, 401):
    x = torch.randn(8, 20, dtype=torch.float64)  # these two stand for a loader
    y = x @ truth.T + torch.randn(8, 1, dtype=torch.float64)
    loss = (net(x) - y).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    mean.update_parameters(net)  # after each step
    if step in (10, 100, 400):
        right = probe @ truth.T
        errors = [(out - right).std() for out in (net(probe), mean.eval()(probe))]
        print(f"step {step:3}: error {errors[0]:.2f}, of the average {errors[1]:.2f}")
# --8<-- [end:usage]
