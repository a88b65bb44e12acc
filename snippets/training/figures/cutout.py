import skimage.data
import torch

from cnn_site.figures.pictures import pictures_svg
from cnn_techniques.training import Cutout, RandomErasing, erase_boxes

photo = torch.tensor(skimage.data.chelsea())[:300, 76:376].permute(2, 0, 1)
mean = photo.double().mean(dim=(1, 2)).round()[:, None, None]
noise = torch.rand(photo.shape, generator=torch.Generator().manual_seed(0)) * 255


def erased(augment, seed, value=mean):
    torch.manual_seed(seed)
    return erase_boxes(photo[None], augment.draw(1, 300, 300), value)[0]


square, rectangle = Cutout(150), RandomErasing(p=1.0)
cells = [
    ("as it is", photo),
    ("Cutout", erased(square, 8)),
    ("over the edge", erased(square, 7)),
    ("random erasing", erased(rectangle, 3)),
    ("another draw", erased(rectangle, 5)),
    ("noise", erased(rectangle, 6, noise)),
]
svg = pictures_svg(
    "cutout",
    "A cat, and the same photo with a part hidden",
    "Six copies of a photo of a cat. The first is whole. In two, a square of half the side is "
    "hidden behind the mean colour; in the second of them it hangs over the edge. In three, a rectangle of another size, "
    "shape and place is hidden, in the last of them behind coloured noise.",
    cells,
    columns=3,
)
