import torch

from cnn_techniques.training import LinearWarmUp

# --8<-- [start:usage]
STEPS, WARM = 1000, 50  # all batches of all epochs; those of the warm-up

cosine = torch.optim.lr_scheduler.CosineAnnealingLR
weights = torch.nn.Parameter(torch.zeros(1))
optimizer = torch.optim.SGD([weights], lr=0.1)
schedule = LinearWarmUp(
    optimizer, WARM, lambda o: cosine(o, STEPS - WARM), start_factor=0.1
)
for step in range(STEPS):
    if step in (0, 1, 25, 49, 50, 525, 999):
        print(f"step {step:3}: rate {schedule.get_last_lr()[0]:.4f}")
    optimizer.step()  # after loss.backward()
    schedule.step()  # per batch, not per epoch
# --8<-- [end:usage]
