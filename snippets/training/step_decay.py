import torch

from cnn_techniques.training import MultiStepDecay, StepDecay

# --8<-- [start:usage]
EPOCHS, BATCHES = 9, 100  # in your loop: the epochs, and len(loader)

for name, make in {
    "every 3 epochs": lambda o: StepDecay(o, step_size=3),
    "after 4 and 7": lambda o: MultiStepDecay(o, milestones=[4, 7]),
}.items():
    weights = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weights], lr=0.1)
    schedule = make(optimizer)
    rates = []
    for _ in range(EPOCHS):
        rates.append(f"{schedule.get_last_lr()[0]:.3f}")
        for _ in range(BATCHES):
            optimizer.step()  # after loss.backward()
        schedule.step()  # per epoch: step_size and milestones are in epochs
    print(f"{name:14}", *rates)
# --8<-- [end:usage]
