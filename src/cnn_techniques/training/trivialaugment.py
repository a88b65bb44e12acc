"""TrivialAugment: one operation for each image, drawn like its magnitude.

Source: Müller and Hutter, "TrivialAugment: Tuning-Free Yet State-of-the-Art Data
Augmentation", ICCV 2021, arXiv:2103.10158; the wide ranges, as torchvision has them.
Legend: N images in the batch, C channels (1 or 3), H x W pixels.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor

# --8<-- [end:imports]
from cnn_techniques.training.image_operations import operation_table


# --8<-- [start:module]
class TrivialAugment:
    """Change each image by one operation, from wide ranges.

    Args:
        bins: how many magnitudes each operation has, evenly spaced.

    Shape: (C, H, W) or (N, C, H, W), uint8 -> the same; each image has its own draw.
    Random numbers: torch's global generator, in the order of torchvision.
    Raises: ValueError for fewer than 2 bins or images of another shape; TypeError for
        images that are not uint8.
    """

    def __init__(self, bins: int = 31) -> None:
        # --8<-- [start:ranges]
        self.operations = operation_table(
            bins, shear=0.99, shift=[32.0, 32.0], angle=135.0, change=0.99, bits=2
        )
        del self.operations["Invert"]  # 14 are left
        # --8<-- [end:ranges]
        self.bins = bins

    def draw(self) -> tuple[str, float | None]:
        """The name of an operation, and its magnitude where it has one."""
        names = list(self.operations)
        # --8<-- [start:draw]
        name = names[int(torch.randint(len(names), ()))]
        operation = self.operations[name]
        if operation.magnitudes is None:
            return name, None
        return name, operation.magnitude(int(torch.randint(self.bins, ())))
        # --8<-- [end:draw]

    def __call__(self, images: Tensor) -> Tensor:
        if images.ndim not in (3, 4) or images.numel() == 0:
            raise ValueError(
                "expected an image (C, H, W) or images (N, C, H, W), "
                f"got {tuple(images.shape)}"
            )
        if images.ndim == 4:
            return torch.stack([self(image) for image in images])
        name, magnitude = self.draw()
        return self.operations[name](images, magnitude)


# --8<-- [end:module]
