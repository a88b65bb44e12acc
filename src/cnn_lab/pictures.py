"""Pictures of what a network found, one for each image, in a folder."""

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

    def write(self, picture: Tensor, image: Path) -> str:
        """The path of what was written.

        Args:
            picture: (3, H, W), bytes, or numbers from 0 to 1.

        Raises: Refused where the image itself would be overwritten.
        """
        name, number = image.stem, 2
        while name in self.taken:
            name, number = f"{image.stem}-{number}", number + 1
        self.taken.add(name)
        path = self.folder / f"{name}.png"
        if path.exists() and path.samefile(image):
            raise Refused(
                f"{path} is the image itself; choose another folder with --out"
            )
        with written_whole(path) as part:
            T.to_pil_image(picture).save(part, format="PNG")
        return str(path)
