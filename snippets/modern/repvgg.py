import torch

from cnn_techniques.modern import repvgg_a0

# --8<-- [start:usage]
torch.manual_seed(0)
model = repvgg_a0(num_classes=10)
images = torch.randn(8, 3, 64, 96)
for _ in range(3):
    model(images)  # in training mode: the norms collect their statistics
model.eval()
plain = model.plain()
with torch.no_grad():
    before, after = model(images), plain(images)
print(f"scores: {tuple(before.shape)}, standard deviation {before.std():.4f}")
apart = (before - after).abs().max()
print(f"the plain network gives the same: {bool(apart < 1e-4)}")
for name, network in (("three branches", model), ("plain", plain)):
    layers = sum(1 for _ in network.modules()) - 1
    size = sum(p.numel() for p in network.parameters())
    print(f"{name}: {size:,} parameters, {layers} modules")
print(plain[2])
# --8<-- [end:usage]
