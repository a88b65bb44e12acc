"""RandAugment: a few operations for each image, all of one magnitude.

Source: Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced
Search Space", CVPR Workshops 2020, arXiv:1909.13719; operations and ranges as
torchvision has them.
Legend: B images in the batch, C channels (1 or 3), H x W pixels; n operations of
magnitude m.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor

# --8<-- [end:imports]
from cnn_techniques.training.image_operations import ImageOperation, operation_table


# --8<-- [start:module]
class RandAugment:
    """Change each image by n operations, one after the other.

    Args:
        n: operations per image; 0 changes nothing.
        m: their magnitude, from 0 to bins - 1.
        bins: how many magnitudes there are.

    Shape: (C, H, W) or (B, C, H, W), uint8 -> the same; each image has its own draw.
    Random numbers: torch's global generator, in the order of torchvision.
    Raises: ValueError for an n, m or bins out of range or images of another shape;
        TypeError for images that are not uint8.
    """

    def __init__(self, n: int = 2, m: int = 9, bins: int = 31) -> None:
        if n not in range(10**6) or bins < 2 or m not in range(bins):
            raise ValueError(
                "expected n from 0, bins from 2 and m from 0 to bins - 1, "
                f"got {n=}, {m=}, {bins=}"
            )
        self.n, self.m, self.bins = n, m, bins

    def operations(self, height: int, width: int) -> dict[str, ImageOperation]:
        """Those for an image of this size: 14, with all their magnitudes."""
        # --8<-- [start:ranges]
        shift = [150 / 331 * width, 150 / 331 * height]
        table = operation_table(
            self.bins, shear=0.3, shift=shift, angle=30.0, change=0.9, bits=4
        )
        del table["Invert"]
        # --8<-- [end:ranges]
        return table

    def draw(self, height: int, width: int) -> list[tuple[str, float | None]]:
        """Names of n operations, and their magnitudes where they have one."""
        table = self.operations(height, width)
        # --8<-- [start:draw]
        names, drawn = list(table), []
        for _ in range(self.n):
            name = names[int(torch.randint(len(names), ()))]
            drawn.append((name, table[name].magnitude(self.m)))
        # --8<-- [end:draw]
        return drawn

    def __call__(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise TypeError(f"expected images of torch.uint8, got {images.dtype}")
        if images.ndim not in (3, 4) or images.numel() == 0:
            raise ValueError(
                "expected an image (C, H, W) or images (B, C, H, W), "
                f"got {tuple(images.shape)}"
            )
        if images.ndim == 4:
            return torch.stack([self(image) for image in images])
        height, width = images.shape[-2:]
        table = self.operations(height, width)
        # --8<-- [start:apply]
        for name, magnitude in self.draw(height, width):
            images = table[name](images, magnitude)
        # --8<-- [end:apply]
        return images


# --8<-- [end:module]
