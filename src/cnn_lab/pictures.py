"""Pictures of what a network found, one for each image, in a folder."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor
from torchvision.transforms.v2 import functional as T

from .checkpoint import written_whole
from .stop import Refused


class Pictures:
    """Writes PNG files named as the images are; of two with one name the later gets a number."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.taken: set[str] = set()

    def spare(self, images: Iterable[Path]) -> None:
        """Refuse a folder where a picture could take the place of one of the images."""
        folder = self.folder.resolve()
        for image in images:
            if image.suffix.lower() == ".png" and image.resolve().parent == folder:
                raise Refused(
                    f"a picture could be written over the image {image}; choose another "
                    "folder with --out"
                )

    def write(self, picture: Tensor, image: Path) -> str:
        """The path of what was written.

        Args:
            picture: (3, H, W), bytes, or numbers from 0 to 1.
        """
        name, number = image.stem, 2
        while name in self.taken:
            name, number = f"{image.stem}-{number}", number + 1
        self.taken.add(name)
        path = self.folder / f"{name}.png"
        with written_whole(path) as part:
            T.to_pil_image(picture).save(part, format="PNG")
        return str(path)
