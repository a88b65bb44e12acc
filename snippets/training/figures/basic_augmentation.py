import skimage.data
import torch

from cnn_site.figures.pictures import pictures_svg
from cnn_techniques.training import BasicAugmentation

photo = torch.tensor(skimage.data.chelsea())[:300, 76:376].permute(2, 0, 1) / 255
still = {"flipped": torch.tensor([False]), "top": torch.tensor([40]), "left": torch.tensor([40])}  # fmt: skip


def changed(options, **drawn):
    augment = BasicAugmentation(**{"flip": 0.0, "padding": 0} | options)
    drawn = {name: torch.tensor([value]) for name, value in drawn.items()}
    return augment.apply(photo[None], still | drawn)[0]


cells = [
    ("as it is", photo),
    ("flip", changed({"flip": 1.0}, flipped=True)),
    ("crop", changed({"padding": 40}, top=70, left=10)),
    ("rotate", changed({"degrees": 15.0}, degrees=13.0)),
    ("brightness 0.6", changed({"brightness": 0.4}, brightness=0.6)),
    ("contrast 1.4", changed({"contrast": 0.4}, contrast=1.4)),
    ("saturation 0.2", changed({"saturation": 0.8}, saturation=0.2)),
    ("hue 0.1", changed({"hue": 0.1}, hue=0.1)),
    ("hue 0.5", changed({"hue": 0.5}, hue=0.5)),
]
svg = pictures_svg(
    "basic-augmentation",
    "A photo of a cat and eight changed copies",
    "Nine copies of a photo of a cat: as it is, mirrored, shifted with black coming in at two edges, turned by "
    "13 degrees, darker, with more contrast, with little colour, and with its hue moved a little and halfway "
    "round the circle, where the brown fur is blue.",
    cells,
    columns=3,
    quality=65,
)
