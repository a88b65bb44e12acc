import skimage.data
import torch

from cnn_site.figures.pictures import pictures_svg
from cnn_techniques.training import cutmix_batch, cutmix_box

cat = torch.tensor(skimage.data.chelsea())[:300, 76:376].permute(2, 0, 1)
cup = torch.tensor(skimage.data.coffee())[50:350, 150:450].permute(2, 0, 1)
images, labels, partner = torch.stack([cat, cup]), torch.eye(2), torch.tensor([1, 0])
cells = [("cat", cat), ("cup", cup)]
for lam, row, column in ((0.75, 150, 130), (0.5, 60, 230), (0.75, 225, 75), (0.3, 150, 150)):  # fmt: skip
    box = cutmix_box(lam, row, column, 300, 300)
    x, y = cutmix_batch(images, labels, box, partner)
    cells.append((f"{y[0, 0]:.2f} cat, {y[0, 1]:.2f} cup", x[0]))
svg = pictures_svg(
    "cutmix",
    "A cat, a cup, and four pictures of both with their labels",
    "Six photos. The first shows a cat, the second a cup of coffee from above. The other four show the "
    "cat with a rectangle of the photo of the cup, in four sizes and places; the share of the "
    "rectangle is that of the cup in the label.",
    cells,
    columns=3,
)
