import torch

from cnn_techniques.optimization import SharpnessAwareMinimisation

# --8<-- [start:usage]
torch.manual_seed(0)
network = torch.nn.Linear(16, 4).double()  # TODO a loop like that of a reader
images, labels = torch.randn(32, 16).double(), torch.randint(4, (32,))
optimizer = SharpnessAwareMinimisation(network.parameters(), lr=0.1)
for step in range(21):
    loss = torch.nn.functional.cross_entropy(network(images), labels)
    if step % 10 == 0:
        print(f"step {step:2}: loss {loss.item():.3f}")  # TODO what a reader can check
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
# --8<-- [end:usage]
