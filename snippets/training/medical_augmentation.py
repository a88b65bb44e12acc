import torch

from cnn_techniques.training import MedicalAugmentation

# --8<-- [start:usage]
torch.manual_seed(0)
row, column = torch.arange(64)[:, None], torch.arange(64)
organ = (row - 32) ** 2 + (column - 32) ** 2 < 400  # stands for a scan
masks = organ.long().expand(3, 64, 64) * 2  # classes 0 and 2
images = 0.2 + 0.3 * masks[:, None]  # (3, 1, 64, 64), 0.2 and 0.8
augment = MedicalAugmentation(alpha=120.0, sigma=6.0, gamma=1.5)
x, y = augment(images, masks)  # (3, 1, 64, 64), (3, 64, 64)
for image, mask in zip(x[:, 0], y, strict=True):
    moved = (mask != masks[0]).float().mean()
    agree = ((image > 0.5) == (mask == 2)).float().mean()
    print(
        mask.unique().tolist(), f"moved {moved:.2f}, image and mask agree {agree:.2f}"
    )
# --8<-- [end:usage]
