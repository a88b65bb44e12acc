import torch

from cnn_techniques.training import CosineAnnealing, CosineWarmRestarts

# --8<-- [start:usage]
EPOCHS, BATCHES = 7, 100  # in your loop: the epochs, and len(loader)

for name, make in {
    "once": lambda o: CosineAnnealing(o, T_max=EPOCHS * BATCHES),
    "restarts": lambda o: CosineWarmRestarts(o, T_0=BATCHES, T_mult=2),
}.items():
    weights = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weights], lr=0.1)
    schedule = make(optimizer)
    rates = []
    for _ in range(EPOCHS):
        rates.append(f"{schedule.get_last_lr()[0]:.4f}")
        for _ in range(BATCHES):
            optimizer.step()  # after loss.backward()
            schedule.step()  # per batch, not per epoch
    print(f"{name:8}", *rates, f"{schedule.get_last_lr()[0]:.4f}")
# --8<-- [end:usage]
