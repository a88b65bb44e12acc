"""Image operations of the automatic policies: fifteen functions of 8-bit images.

Source: Cubuk et al., "AutoAugment: Learning Augmentation Strategies from Data", CVPR
2019, arXiv:1805.09501, whose search chooses among them; what each computes is Pillow's,
as torchvision writes it for tensors.
Legend: ... any leading dimensions, C channels (1 or 3), H x W pixels, values 0 to 255.
"""

# --8<-- [start:imports]
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
def _check_operand(image: Tensor, change: float = 0.0) -> None:
    if image.dtype != torch.uint8:
        raise TypeError(f"expected an image of torch.uint8, got {image.dtype}")
    if image.ndim < 3 or image.shape[-3] not in (1, 3) or image.numel() == 0:
        raise ValueError(
            "expected an image (..., C, H, W) of 1 or 3 channels and some pixels, "
            f"got {tuple(image.shape)}"
        )
    if not -1 <= change < math.inf:
        raise ValueError(f"expected a change of -1 or more, got {change}")


# What follows looks at each value alone.


def invert(image: Tensor) -> Tensor:
    """Black for white: v becomes 255 - v."""
    _check_operand(image)
    return 255 - image


def solarize(image: Tensor, threshold: float) -> Tensor:
    """Invert the values from 255 * threshold on.

    Args:
        image: (..., C, H, W), uint8.
        threshold: 0 inverts all, 1 only the value 255.

    Shape: (..., C, H, W) -> the same.
    Raises: TypeError, ValueError for another image; ValueError for a threshold
        outside [0, 1].
    """
    _check_operand(image)
    if not 0 <= threshold <= 1:
        raise ValueError(f"expected a threshold from 0 to 1, got {threshold}")
    # --8<-- [start:solarize]
    return torch.where(image >= 255 * threshold, 255 - image, image)
    # --8<-- [end:solarize]


def posterize(image: Tensor, bits: int) -> Tensor:
    """Keep the highest bits of each value and set the others to 0.

    Args:
        image: (..., C, H, W), uint8.
        bits: 8 changes nothing, 0 leaves black.

    Shape: (..., C, H, W) -> the same.
    Raises: TypeError, ValueError for another image; ValueError for bits that are no
        whole number from 0 to 8.
    """
    _check_operand(image)
    if bits not in range(9):
        raise ValueError(f"expected 0 to 8 bits, got {bits}")
    # --8<-- [start:posterize]
    return image & (256 - 2 ** (8 - int(bits)))
    # --8<-- [end:posterize]


# What follows looks at the histogram of each channel.


def auto_contrast(image: Tensor) -> Tensor:
    """Stretch each channel from 0 to 255; rounding down can make the largest 254."""
    _check_operand(image)
    # --8<-- [start:auto_contrast]
    x = image.float()
    low = x.amin(dim=(-2, -1), keepdim=True)  # (..., C, 1, 1)
    high = x.amax(dim=(-2, -1), keepdim=True)
    stretched = (x - low) / ((high - low) * (1 / 255))
    # --8<-- [end:auto_contrast]
    return torch.where(high > low, stretched.clamp(0, 255), x).to(torch.uint8)


def equalize(image: Tensor) -> Tensor:
    """Spread the values of each channel, so that each range holds as many pixels."""
    _check_operand(image)
    # --8<-- [start:equalize]
    values = image.flatten(-2).long()  # (..., C, H * W)
    count = values.new_zeros(*values.shape[:-1], 256)
    count.scatter_add_(-1, values, torch.ones_like(values))  # the histogram
    below = count.cumsum(-1) - count  # how many pixels are darker
    brightest = count.gather(-1, values.amax(-1, keepdim=True))
    step = (values.shape[-1] - brightest) // 255  # pixels per level
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    # --8<-- [end:equalize]
    spread = table.gather(-1, values).where(step > 0, values)  # else too few pixels
    return spread.view_as(image).to(torch.uint8)


# What follows blends the image with a poorer one, or goes beyond it.


def _blend_operand(image: Tensor, poorer: Tensor, change: float) -> Tensor:
    # --8<-- [start:blend]
    factor = 1.0 + change
    mixed = torch.add(image * factor, poorer, alpha=1.0 - factor)
    return mixed.clamp(0, 255).to(torch.uint8)  # rounds down
    # --8<-- [end:blend]


def _grey_operand(image: Tensor) -> Tensor:
    """Luminance as whole numbers, (..., 1, H, W), float32."""
    if image.shape[-3] == 1:
        return image.float()
    r, g, b = image.unbind(dim=-3)
    grey = torch.add(r * 0.2989, g, alpha=0.587)
    return torch.add(grey, b, alpha=0.114).floor().unsqueeze(-3)


def change_brightness(image: Tensor, change: float) -> Tensor:
    """Blend with black: -1 is black, 0 the image, 1 twice as bright."""
    _check_operand(image, change)
    return _blend_operand(image, image.new_zeros(()), change)


def change_contrast(image: Tensor, change: float) -> Tensor:
    """Blend with the mean grey of the image: -1 is this grey, 0 the image."""
    _check_operand(image, change)
    mean = _grey_operand(image).mean(dim=(-3, -2, -1), keepdim=True)
    return _blend_operand(image, mean, change)


def change_colour(image: Tensor, change: float) -> Tensor:
    """Blend with the grey picture: -1 is grey, 0 the image; one channel stays."""
    _check_operand(image, change)
    changed = _blend_operand(image, _grey_operand(image), change)
    return changed if image.shape[-3] == 3 else image.clone()


def change_sharpness(image: Tensor, change: float) -> Tensor:
    """Blend with a smoothed picture: -1 is smooth, 0 the image; the border stays."""
    _check_operand(image, change)
    height, width = image.shape[-2:]
    changed = image.clone()
    if min(height, width) > 2:
        kernel = image.new_ones(1, 1, 3, 3, dtype=torch.float32)
        kernel[..., 1, 1] = 5
        single = image.reshape(-1, 1, height, width).float()
        smooth = F.conv2d(single, kernel / 13).round()
        inside = single[..., 1:-1, 1:-1]
        # The blend again, in the order that torchvision adds in.
        mixed = torch.add(inside, smooth - inside, alpha=-float(change))
        inner = changed[..., 1:-1, 1:-1]
        inner.copy_(mixed.clamp(0, 255).view_as(inner))
    return changed


# What follows moves pixels.


Rows = tuple[tuple[float, float, float], tuple[float, float, float]]


def warp(image: Tensor, matrix: Rows, mode: str = "nearest") -> Tensor:
    """Fetch every pixel from where a matrix says; black comes in from outside.

    Args:
        image: (..., C, H, W), uint8.
        matrix: ((a, b, s), (c, d, t)): the pixel at (x, y), counted from the centre of
            the image, right and down, comes from (ax + by + s, cx + dy + t).
        mode: "nearest", or "bilinear", which rounds.

    Shape: (..., C, H, W) -> the same.
    Raises: TypeError, ValueError for another image; ValueError for another mode or a
        matrix with numbers that are not finite.
    """
    _check_operand(image)
    if mode not in ("nearest", "bilinear"):
        raise ValueError(f"expected mode 'nearest' or 'bilinear', got {mode!r}")
    if not all(math.isfinite(number) for row in matrix for number in row):
        raise ValueError(f"expected a matrix of finite numbers, got {matrix}")
    height, width = image.shape[-2:]
    # --8<-- [start:warp]
    x = torch.arange(width, device=image.device) - (width - 1) / 2
    y = torch.arange(height, device=image.device) - (height - 1) / 2
    y, x = torch.meshgrid(y, x, indexing="ij")  # (H, W)
    here = torch.stack([x, y, torch.ones_like(x)], dim=-1)  # (H, W, 3)
    half = here.new_tensor([width / 2, height / 2])  # grid_sample counts in halves
    there = here.view(1, -1, 3).bmm(here.new_tensor(matrix).T[None] / half)
    batch = image.reshape(-1, *image.shape[-3:]).float()  # (N, C, H, W)
    grid = there.view(1, height, width, 2).expand(len(batch), -1, -1, -1)
    moved = F.grid_sample(batch, grid, mode, "zeros", align_corners=False)
    # --8<-- [end:warp]
    return moved.round().view_as(image).to(torch.uint8)


def shear_x(image: Tensor, slope: float) -> Tensor:
    """Move each row to the left by slope times its distance from the top edge."""
    return warp(image, ((1, slope, slope * image.shape[-2] / 2), (0, 1, 0)))


def shear_y(image: Tensor, slope: float) -> Tensor:
    """Move each column up by slope times its distance from the left edge."""
    return warp(image, ((1, 0, 0), (slope, 1, slope * image.shape[-1] / 2)))


def translate_x(image: Tensor, pixels: float) -> Tensor:
    """Move to the right by the whole part of pixels."""
    return warp(image, ((1, 0, -math.copysign(abs(pixels) // 1, pixels)), (0, 1, 0)))


def translate_y(image: Tensor, pixels: float) -> Tensor:
    """Move down by the whole part of pixels."""
    return warp(image, ((1, 0, 0), (0, 1, -math.copysign(abs(pixels) // 1, pixels))))


def rotate_about_centre(image: Tensor, degrees: float) -> Tensor:
    """Turn anticlockwise about the centre."""
    cos, sin = (f(math.radians(degrees % 360)) for f in (math.cos, math.sin))
    return warp(image, ((cos, -sin, 0), (sin, cos, 0)))


# --8<-- [start:table]
class ImageOperation(NamedTuple):
    """An operation and its magnitudes.

    Attributes:
        function: of an image, and of a magnitude where there are any.
        magnitudes: (bins,), from the weakest to the strongest; None: it has none.
        signed: half of the magnitudes that are drawn get a minus.
    """

    function: Callable[..., Tensor]
    magnitudes: Tensor | None = None
    signed: bool = False

    def __call__(self, image: Tensor, magnitude: float | None = None) -> Tensor:
        arguments = () if magnitude is None else (magnitude,)
        return self.function(image, *arguments)

    def magnitude(self, bin: int) -> float | None:
        """That of a bin, its sign drawn by torch's global generator."""
        if self.magnitudes is None:
            return None
        value: float = self.magnitudes[bin].item()
        return -value if self.signed and torch.rand(()) <= 0.5 else value


def operation_table(
    bins: int, shear: float, shift: list[float], angle: float, change: float, bits: int
) -> dict[str, ImageOperation]:
    """All operations, by the papers' names, with `bins` magnitudes between two ends.

    Args:
        bins: how many magnitudes each has, 2 or more.
        shear: the strongest.
        shift: the strongest, [to the side, down] in pixels.
        angle: the strongest, in degrees.
        change: the strongest of the factors, less 1.
        bits: the fewest that are left of 8.

    Raises: ValueError for bins or bits out of range.
    """
    if bins < 2 or not 0 <= bits < 8:
        raise ValueError(
            f"expected 2 bins or more and bits from 0 to 7, got {bins=}, {bits=}"
        )

    def upto(largest: float) -> Tensor:
        return torch.linspace(0.0, largest, bins)

    kept = 8 - torch.arange(bins) / ((bins - 1) / (8 - bits))
    return {
        "Identity": ImageOperation(lambda image: posterize(image, 8)),
        "ShearX": ImageOperation(shear_x, upto(shear), True),
        "ShearY": ImageOperation(shear_y, upto(shear), True),
        "TranslateX": ImageOperation(translate_x, upto(shift[0]), True),
        "TranslateY": ImageOperation(translate_y, upto(shift[1]), True),
        "Rotate": ImageOperation(rotate_about_centre, upto(angle), True),
        "Brightness": ImageOperation(change_brightness, upto(change), True),
        "Color": ImageOperation(change_colour, upto(change), True),
        "Contrast": ImageOperation(change_contrast, upto(change), True),
        "Sharpness": ImageOperation(change_sharpness, upto(change), True),
        "Posterize": ImageOperation(posterize, kept.round().int()),
        "Solarize": ImageOperation(solarize, torch.linspace(1.0, 0.0, bins)),
        "AutoContrast": ImageOperation(auto_contrast),
        "Equalize": ImageOperation(equalize),
        "Invert": ImageOperation(invert),
    }


# --8<-- [end:table]
# --8<-- [end:module]
