"""Cutout and random erasing: hide a box of each training image.

Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks
with Cutout", 2017, arXiv:1708.04552; Zhong et al., "Random Erasing Data Augmentation",
AAAI 2020, arXiv:1708.04896.
Legend: N images in the batch, C channels, H x W pixels.
"""

# --8<-- [start:imports]
import math

import torch
from torch import Tensor

# --8<-- [end:imports]


# --8<-- [start:module]
def erase_boxes(images: Tensor, boxes: Tensor, value: float | Tensor = 0.0) -> Tensor:
    """Put a value into a box of every image.

    Args:
        images: (N, C, H, W), of any type.
        boxes: (N, 4), integers: first row and column inside, first ones behind.
            What lies outside the image hides nothing; a box of zeros hides nothing.
        value: a number, or a tensor that fits (N, C, H, W), such as (C, 1, 1).

    Shape: (N, C, H, W) -> (N, C, H, W).
    Raises: TypeError for boxes that are not integers; ValueError for other shapes.
    """
    if images.ndim != 4 or boxes.shape != (len(images), 4):
        raise ValueError(
            "expected images (N, C, H, W) and boxes (N, 4), "
            f"got {tuple(images.shape)} and {tuple(boxes.shape)}"
        )
    if boxes.is_floating_point() or boxes.dtype == torch.bool:
        raise TypeError(f"expected boxes of integers, got {boxes.dtype}")
    value = torch.as_tensor(value, dtype=images.dtype, device=images.device)
    try:
        value = value.expand(images.shape)
    except RuntimeError:
        raise ValueError(
            f"expected a value for images {tuple(images.shape)}, "
            f"got {tuple(value.shape)}"
        ) from None
    height, width = images.shape[-2:]
    # --8<-- [start:erase]
    top, left, bottom, right = boxes.to(images.device)[..., None].unbind(1)  # (N, 1)
    row = torch.arange(height, device=images.device)
    column = torch.arange(width, device=images.device)
    rows = (top <= row) & (row < bottom)  # (N, H)
    columns = (left <= column) & (column < right)  # (N, W)
    hidden = rows[:, None, :, None] & columns[:, None, None, :]  # (N, 1, H, W)
    return torch.where(hidden, value, images)  # (N, C, H, W)
    # --8<-- [end:erase]


def erasing_size(
    share: Tensor, ratio: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """Height and width, in whole pixels, of a box with that share of the image.

    Args:
        share: of the image's area; any shape.
        ratio: of the box's height to its width; the same shape.
    """
    # --8<-- [start:size]
    area = share * height * width
    return (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    # --8<-- [end:size]


def _image_size(images: Tensor) -> tuple[int, int, int]:
    """N, H and W. Raises: ValueError for images that are not (N, C, H, W)."""
    if images.ndim != 4:
        raise ValueError(
            f"expected a batch of images (N, C, H, W), got {tuple(images.shape)}"
        )
    return images.shape[0], images.shape[2], images.shape[3]


class Cutout:
    """Hide a square of every image, its centre on any pixel.

    Args:
        size: side of the square in pixels; the authors take 16 for CIFAR-10's images.
        value: what is put there; 0 is the mean colour of images that were normalised.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Random numbers: torch's global generator on the CPU, on any device of the images.
    Raises: ValueError for a size below 1 or images of another shape.
    """

    def __init__(self, size: int, value: float = 0.0) -> None:
        if size < 1 or size != int(size):
            raise ValueError(f"expected a size of 1 pixel or more, got {size=}")
        self.size, self.value = int(size), value

    # --8<-- [start:square]
    def draw(self, n: int, height: int, width: int) -> Tensor:
        """The box of each image, (N, 4); it may hang over the edge."""
        row, column = torch.randint(height, (n,)), torch.randint(width, (n,))  # centres
        top, left = row - self.size // 2, column - self.size // 2
        return torch.stack([top, left, top + self.size, left + self.size], dim=1)

    # --8<-- [end:square]

    def __call__(self, images: Tensor) -> Tensor:
        return erase_boxes(images, self.draw(*_image_size(images)), self.value)


class RandomErasing:
    """Hide a rectangle of random size and shape, which lies inside, of some images.

    Args:
        p: probability for each image.
        scale: least and largest share of the image's area.
        ratio: least and largest ratio of height to width; its logarithm is drawn.
        value: what is put there, as for `Cutout`.
        noise: put standard normal noise there instead of a value.

    Shape: (N, C, H, W) -> (N, C, H, W).
    Random numbers: torch's global generator on the CPU, on any device of the images.
    Raises: ValueError for a value out of range or images of another shape; TypeError
        for noise in images that are not floating point.
    """

    def __init__(
        self,
        p: float = 0.5,
        scale: tuple[float, float] = (0.02, 0.33),
        ratio: tuple[float, float] = (0.3, 3.3),
        value: float = 0.0,
        noise: bool = False,
    ) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"expected p from 0 to 1, got {p=}")
        if not 0 <= scale[0] <= scale[1] <= 1:
            raise ValueError(f"expected 0 <= scale[0] <= scale[1] <= 1, got {scale=}")
        if not 0 < ratio[0] <= ratio[1] < math.inf:
            raise ValueError(f"expected 0 < ratio[0] <= ratio[1], got {ratio=}")
        self.p, self.scale, self.ratio = p, scale, ratio
        self.value, self.noise = value, noise

    # --8<-- [start:rectangle]
    def draw(self, n: int, height: int, width: int) -> Tensor:
        """The box of each image, (N, 4), the first of ten that fits; else zeros."""
        share = torch.empty(n, 10, dtype=torch.float64).uniform_(*self.scale)
        log_ratio = torch.empty(n, 10, dtype=torch.float64)
        log_ratio.uniform_(math.log(self.ratio[0]), math.log(self.ratio[1]))
        h, w = erasing_size(share, log_ratio.exp(), height, width)  # (N, 10)
        fits = (h < height) & (w < width)
        first = fits.int().argmax(dim=1, keepdim=True)  # (N, 1)
        h, w, fits = (t.gather(1, first).squeeze(1) for t in (h, w, fits))  # (N,)
        top, left = torch.rand(2, n, dtype=torch.float64)
        top, left = (top * (height - h + 1)).floor(), (left * (width - w + 1)).floor()
        boxes = torch.stack([top, left, top + h, left + w], dim=1).long()  # (N, 4)
        erased = fits & (torch.rand(n) < self.p)
        return torch.where(erased[:, None], boxes, 0)

    # --8<-- [end:rectangle]

    def __call__(self, images: Tensor) -> Tensor:
        n, height, width = _image_size(images)
        if self.noise and not images.is_floating_point():
            raise TypeError(
                f"expected floating-point images for noise, got {images.dtype}"
            )
        boxes = self.draw(n, height, width)
        value = torch.randn(images.shape) if self.noise else self.value
        return erase_boxes(images, boxes, value)


# --8<-- [end:module]
