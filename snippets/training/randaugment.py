import torch

from cnn_techniques.training import RandAugment

# --8<-- [start:usage]
torch.manual_seed(0)
augment = RandAugment(n=2, m=9)
ramp = torch.arange(3, 256, 4, dtype=torch.uint8)  # no black
images = ramp.expand(4, 3, 64, 64)  # (B, C, H, W), bytes
changed = augment(images)
for image in changed:
    black = (image == 0).float().mean()
    print(f"mean {image.float().mean():3.0f}, share of black {black:.2f}")
print("drawn next:", *(name for name, _ in augment.draw(height=64, width=64)))
# --8<-- [end:usage]
