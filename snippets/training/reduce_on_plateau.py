import torch

from cnn_techniques.training import ReduceOnPlateau

# --8<-- [start:usage]
# In your loop: the loss on the validation images after each epoch.
LOSSES = [0.90, 0.60, 0.50, 0.51, 0.50, 0.52, 0.40, 0.38, 0.38, 0.39, 0.38]

weights = torch.nn.Parameter(torch.zeros(1))
optimizer = torch.optim.SGD([weights], lr=0.1)
schedule = ReduceOnPlateau(optimizer, patience=2)
for epoch, loss in enumerate(LOSSES, 1):
    optimizer.step()  # for every batch, after loss.backward()
    schedule.step(loss)  # per epoch
    (rate,) = schedule.get_last_lr()
    print(
        f"epoch {epoch:2}: loss {loss:.2f}, best {schedule.best:.2f}, "
        f"without a gain {schedule.num_bad_epochs}, rate {rate:.3f}"
    )
# --8<-- [end:usage]
