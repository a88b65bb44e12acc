import torch

from cnn_techniques.training import SatelliteAugmentation

# --8<-- [start:usage]
torch.manual_seed(0)
images = torch.arange(5.0 * 3 * 3).view(1, 5, 3, 3).repeat(4, 1, 1, 1)  # five bands
masks = (images[:, 0] == 2).long()  # the pixel at the top right
boxes = torch.tensor([[[2, 0, 3, 1]]]).repeat(4, 1, 1)  # around it
augment = SatelliteAugmentation()
images, masks, boxes = augment(images, masks, boxes)
for image, mask, box in zip(images, masks, boxes, strict=True):
    x1, y1, x2, y2 = box[0].tolist()
    inside = mask[y1:y2, x1:x2].item()
    print(image[4].int().flatten().tolist(), box[0].tolist(), inside)
# --8<-- [end:usage]
