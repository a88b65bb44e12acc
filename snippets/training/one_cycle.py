import torch

from cnn_techniques.training import OneCycle

# --8<-- [start:usage]
EPOCHS, BATCHES = 10, 100  # in your loop: the epochs, and len(loader)

weights = torch.nn.Parameter(torch.zeros(1))
optimizer = torch.optim.SGD([weights], lr=0.1, momentum=0.9)  # both are overwritten
schedule = OneCycle(optimizer, max_lr=0.1, total_steps=EPOCHS * BATCHES)
for epoch in range(EPOCHS):
    group = optimizer.param_groups[0]
    print(f"epoch {epoch}: rate {group['lr']:.4f}, momentum {group['momentum']:.3f}")
    for _ in range(BATCHES):
        optimizer.step()  # after loss.backward()
        schedule.step()  # per batch, not per epoch
print(f"the end: rate {group['lr']:.1e}, momentum {group['momentum']:.3f}")
# --8<-- [end:usage]
