import skimage.data
import torch
from torch.nn import functional as F

from cnn_site.figures.pictures import label_map, pictures_svg
from cnn_techniques.training import (
    MedicalAugmentation,
    change_intensity,
    deform_images,
)

SIDE = 300
eye = torch.tensor(skimage.data.retina()).permute(2, 0, 1)[None] / 255
eye = F.interpolate(eye, (SIDE, SIDE), mode="area")
cell = torch.tensor(skimage.data.cell())[190:490, 250:550][None, None] / 255
mask = (F.avg_pool2d(cell, 5, 1, 2) > 0.5).long()


def field(seed, alpha=1300.0, sigma=20.0):
    torch.manual_seed(seed)
    return MedicalAugmentation(alpha, sigma).draw(1, SIDE, SIDE)["displacement"]


def values(gamma, contrast, brightness=0.0):
    numbers = (torch.tensor([v]) for v in (gamma, contrast, brightness))
    return change_intensity(eye, *numbers).clamp(0, 1)[0]


def laid_over(image, classes):
    return label_map(classes[0, 0], over=image[0].expand(3, -1, -1))


bent = deform_images(cell, field(4))
cells = [
    ("left eye", eye[0]),
    ("deformed", deform_images(eye, field(1))[0]),
    ("mirror: right eye", eye[0].flip(-1)),
    ("gamma 0.6", values(0.6, 1.0)),
    ("gamma 1.6", values(1.6, 1.0)),
    ("contrast 0.6", values(1.0, 0.6)),
    ("cell and mask", laid_over(cell, mask)),
    ("one field", laid_over(bent, deform_images(mask, field(4), nearest=True))),
    ("two fields", laid_over(bent, deform_images(mask, field(2), nearest=True))),
]
svg = pictures_svg(
    "medical-augmentation",
    "A photo of a retina and a picture of a cell, changed",
    "Nine pictures. Six show the retina of a left eye: as it is, with vessels and outline bent by an elastic "
    "deformation, mirrored so that it looks like a right eye, brighter and darker by an exponent, and with less "
    "contrast. Three show a cell with its mask laid over it: as it is, both bent by one field, and bent by two "
    "fields, where the mask no longer covers the cell.",
    cells,
    columns=3,
    quality=65,
)
