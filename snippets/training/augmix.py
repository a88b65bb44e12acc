import torch

from cnn_techniques.training import AugMix, jensen_shannon, jsd_cross_entropy

# --8<-- [start:usage]
torch.manual_seed(0)
augment = AugMix()
net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.001)
ramp = torch.arange(0, 256, 8, dtype=torch.uint8)
ramps = torch.stack([ramp.roll(4 * n) for n in range(8)])  # (8, 32)
images = ramps[:, None, None].expand(8, 3, 32, 32)  # stand for a loader of bytes
labels = torch.arange(8)

for step in range(1, 4):
    views = torch.cat([images, augment(images), augment(images)])  # (24, 3, 32, 32)
    logits = net((views / 255 - 0.5) / 0.25)  # one pass, scaled after AugMix
    loss = jsd_cross_entropy(logits, labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    changed = (views[8:].float() - images.repeat(2, 1, 1, 1)).abs().mean()
    apart = jensen_shannon(logits.unflatten(0, (3, 8)))
    print(f"step {step}: changed by {changed:.0f}, JSD {apart:.4f}, loss {loss:.2f}")
# --8<-- [end:usage]
