import torch

from cnn_techniques.training import BasicAugmentation

# --8<-- [start:usage]
torch.manual_seed(2)
row = torch.arange(8.0).expand(3, 8, 8) / 8  # brighter from left to right
images = row.repeat(16, 1, 1, 1)  # stands for a data loader
augments = {
    "flip": BasicAugmentation(flip=0.5, padding=0),
    "crop": BasicAugmentation(flip=0.0, padding=2),
    "colours": BasicAugmentation(flip=0.0, padding=0, brightness=0.4),
}
for name, augment in augments.items():
    x = augment(images)  # (16, 3, 8, 8)
    print(name, *((8 * v).round().int().tolist() for v in x[:3, 0, 4]))
# --8<-- [end:usage]
