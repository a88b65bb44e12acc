import torch

from cnn_techniques.optimization import BatchNorm2d

# --8<-- [start:usage]
torch.manual_seed(0)
norm = BatchNorm2d(3)  # behind a convolution with 3 output channels
for _ in range(50):
    maps = 5 * torch.randn(16, 3, 8, 8) + 2  # what the convolution gives, for one
    out = norm(maps)
print(f"in training: mean {out.mean():z.2f}, deviation {out.std():.2f}")
print("running means", *(f"{mean:.1f}" for mean in norm.running_mean))
print("running deviations", *(f"{var**0.5:.1f}" for var in norm.running_var))

for training in (True, False):
    norm.train(training)
    alone, together = norm(maps[:1])[0], norm(maps)[0]
    print(f"{training=}: company changes it by {(alone - together).abs().max():.3f}")
# --8<-- [end:usage]
