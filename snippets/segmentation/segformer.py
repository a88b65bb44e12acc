import torch

from cnn_techniques.segmentation import SegFormer, enlarged, segformer_loss

# --8<-- [start:usage]
torch.manual_seed(0)
sizes = {"heads": (1, 2, 4, 8), "drop_path": 0.0, "dropout": 0.0}
network = SegFormer((8, 16, 32, 64), (1, 1, 1, 1), 32, num_classes=3, **sizes).double()

# Two images, each with a bright disc (class 1) and a dark one (class 2).
images = 0.1 * torch.randn(2, 3, 64, 96, dtype=torch.float64)
masks = torch.zeros(2, 64, 96, dtype=torch.int64)
y, x = torch.arange(64)[:, None], torch.arange(96)
discs = [(0, 1, 21, 25), (0, 2, 40, 70), (1, 2, 30, 24), (1, 1, 33, 66)]
for n, label, row, column in discs:
    disc = (y - row) ** 2 + (x - column) ** 2 < 17**2
    masks[n][disc] = label
    images[n, :, disc] += 1.0 if label == 1 else -1.0

optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
for step in range(41):
    loss = segformer_loss(network(images), masks)
    if step % 20 == 0:
        print(f"step {step}: loss {loss:.3f}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

with torch.no_grad():
    scores = network(images)  # at a quarter of height and width
labels = enlarged(scores, images.shape[-2:]).argmax(dim=1)
print(tuple(scores.shape), "->", tuple(labels.shape))
print(f"pixels right: {(labels == masks).double().mean():.3f}")
# --8<-- [end:usage]
