import torch

from cnn_techniques.training import ProgressiveLearning

# --8<-- [start:usage]
weights = torch.nn.Parameter(torch.zeros(1))
optimizer = torch.optim.SGD([weights], lr=0.1)
schedule = ProgressiveLearning(optimizer, steps=10)
rates = []
for step in range(10):  # TODO what a reader can check
    rates.append(f"{schedule.get_last_lr()[0]:.3f}")
    optimizer.step()
    schedule.step()
print(*rates)
# --8<-- [end:usage]
