import torch
from matplotlib import cbook
from torch.nn import functional as F

from cnn_site.figures.pictures import Mark, Picture, pictures_svg
from cnn_techniques.training import SQUARE_SYMMETRIES, apply_symmetry, symmetry_boxes

file = cbook.get_sample_data("jacksboro_fault_dem.npz")
height = torch.tensor(file["elevation"])[90:210, 90:210].double()[None, None]
height = F.interpolate(height, (240, 240), mode="bicubic")


def shaded(terrain):
    """Lit from the top left: brighter where the ground rises to the bottom right."""
    down, right = torch.gradient(terrain[0, 0] / 25)
    light = (right + down + 1) / ((right**2 + down**2 + 1).sqrt() * 1.73)
    return light.clamp(0, 1).expand(3, -1, -1)


def moved(name):
    symmetry = torch.tensor([SQUARE_SYMMETRIES[name]])
    around = symmetry_boxes(torch.tensor([[[165, 2, 238, 120]]]), symmetry, 240, 240)
    picture = apply_symmetry(shaded(height)[None], symmetry)[0]
    return Picture(name, picture, (Mark(around[0, 0].tolist()),))


turned = apply_symmetry(height, torch.tensor([SQUARE_SYMMETRIES["turn 180"]]))
cells = [moved(name) for name in SQUARE_SYMMETRIES]
cells.append(Picture("turn 180, lit anew", shaded(turned)))
svg = pictures_svg(
    "satellite-augmentation",
    "Hills from above in the eight symmetries of the square",
    "Nine pictures of hills from above, shaded as if lit from the top left, eight with a box around a straight valley. Eight "
    "show the symmetries of the square: as it is, turned by 90, 180 and 270 degrees, mirrored, upside down, and "
    "reflected at both diagonals; the box goes along. The ninth is turned by 180 degrees and then shaded, so that "
    "the light comes from the top left again: in the one that was shaded before, it comes from the bottom right.",
    cells,
    columns=3,
    quality=25,
)
