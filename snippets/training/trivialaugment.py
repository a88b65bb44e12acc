import torch

from cnn_techniques.training import TrivialAugment

# --8<-- [start:usage]
torch.manual_seed(0)
augment = TrivialAugment()
ramp = torch.arange(3, 256, 4, dtype=torch.uint8)  # no black
images = ramp.expand(4, 3, 64, 64)  # (N, C, H, W), bytes
changed = augment(images)
for image in changed:
    black = (image == 0).float().mean()
    print(f"mean {image.float().mean():3.0f}, share of black {black:.2f}")
print("drawn next:", *(augment.draw()[0] for _ in range(4)))
# --8<-- [end:usage]
