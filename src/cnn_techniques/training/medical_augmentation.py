"""Elastic deformation: an image and its mask are bent by one smooth random field.

Source: Simard et al., "Best Practices for Convolutional Neural Networks Applied to
Visual Document Analysis", ICDAR 2003, section 2 (the deformation).
Legend: N images in the batch, C channels, H x W pixels, r radius of the blur.
"""

# --8<-- [start:imports]
import math

import torch
from torch import Tensor
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
def elastic_radius(sigma: float) -> int:
    """How many pixels of noise beyond each edge the blur needs: 4 sigma, rounded."""
    if not 0 < sigma < math.inf:
        raise ValueError(f"expected sigma above 0 pixels, got {sigma=}")
    return max(1, int(4 * sigma + 0.5))


def elastic_displacement(noise: Tensor, alpha: float, sigma: float) -> Tensor:
    """Blur noise to a smooth field of displacements.

    Args:
        noise: (N, 2, H + 2r, W + 2r), uniform, -1 to 1; r is elastic_radius(sigma).
        alpha: the blurred noise is multiplied by it.
        sigma: standard deviation of the Gaussian, in pixels.

    Returns: (N, 2, H, W), to the right and down, in pixels.
    """
    r = elastic_radius(sigma)
    # --8<-- [start:displacement]
    at = torch.arange(-r, r + 1).to(noise)
    gauss = torch.exp(-(at**2) / (2 * sigma**2))
    gauss = gauss / gauss.sum()  # (2r + 1,)
    field = noise.flatten(0, 1)[:, None]  # (2N, 1, H + 2r, W + 2r)
    field = F.conv2d(field, gauss.view(1, 1, -1, 1))  # (2N, 1, H, W + 2r)
    field = alpha * F.conv2d(field, gauss.view(1, 1, 1, -1))  # (2N, 1, H, W)
    # --8<-- [end:displacement]
    return field.view(*noise.shape[:2], *field.shape[-2:])


def deform_images(
    images: Tensor, displacement: Tensor, nearest: bool = False, fill: float = 0.0
) -> Tensor:
    """Read each pixel from where its displacement points.

    Args:
        images: (N, C, H, W), float32, float64 or integers up to 2^24; half precision
            is too coarse for coordinates.
        displacement: (N, 2, H, W), to the right and down, in pixels.
        nearest: take the nearest pixel, for masks; else the four around are blended.
        fill: value of what is outside the image.

    Raises: ValueError for another shape; TypeError for half precision.
    """
    n, _, h, w = images.shape
    if displacement.shape != (n, 2, h, w):
        raise ValueError(
            f"expected a displacement {(n, 2, h, w)}, got {tuple(displacement.shape)}"
        )
    pixels = _medical_floats(images)
    # --8<-- [start:deform]
    dx, dy = displacement.to(pixels).unbind(1)  # (N, H, W) each
    x = torch.arange(w).to(pixels) + dx
    y = torch.arange(h).to(pixels)[:, None] + dy
    grid = torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], dim=-1)
    mode = "nearest" if nearest else "bilinear"
    moved = F.grid_sample(pixels - fill, grid, mode, align_corners=False) + fill
    # --8<-- [end:deform]
    return moved if images.is_floating_point() else moved.round().to(images.dtype)


def _medical_floats(images: Tensor) -> Tensor:
    if images.dtype in (torch.float16, torch.bfloat16):
        raise TypeError(f"expected float32, float64 or integers, got {images.dtype}")
    return images if images.is_floating_point() else images.float()


def change_intensity(
    images: Tensor, gamma: Tensor, contrast: Tensor, brightness: Tensor
) -> Tensor:
    """Change the values of images (N, C, H, W) by three numbers for each, (N,).

    Args:
        gamma: exponent, between the image's own least and largest value.
        contrast: factor of the distance from the mean.
        brightness: is added, as a share of the image's range.

    Floating-point values are not cut off; integers are rounded, and kept within what
    their type holds.
    Raises: TypeError for half precision.
    """
    x = _medical_floats(images)
    g, c, b = (
        v.to(x)[:, None, None, None] for v in (gamma, contrast, brightness)
    )  # (N, 1, 1, 1)
    # --8<-- [start:intensity]
    low = x.amin(dim=(1, 2, 3), keepdim=True)  # (N, 1, 1, 1)
    span = x.amax(dim=(1, 2, 3), keepdim=True) - low
    tiny = torch.finfo(x.dtype).tiny  # an image of one value stays as it is
    x = low + span * ((x - low) / span.clamp_min(tiny)) ** g
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = mean + c * (x - mean) + b * span
    # --8<-- [end:intensity]
    if images.is_floating_point():
        return x
    most = torch.iinfo(images.dtype)
    return x.round().clamp(most.min, most.max).to(images.dtype)


class MedicalAugmentation:
    """Bend every image of a batch, and its mask alike; change the image's values.

    Args:
        alpha: factor of the displacements; 0 leaves every pixel where it is.
        sigma: smoothness of the displacements, in pixels.
        gamma: an exponent is drawn from 1 / gamma to gamma, uniformly in its logarithm.
        contrast: c, a factor is drawn from 1 - c to 1 + c.
        brightness: up to this share of the image's range is added or subtracted.
        fill: value of image pixels that come in from outside.
        mask_fill: class of mask pixels that come in from outside.

    Shape: (N, C, H, W) and masks (N, H, W) -> the same; without masks None.
    Types: images of float32 or float64; integers other than uint8 only without changed
        values, and masks of integers.
    Random numbers: torch's global generator on the CPU, on any device of the images.
    Raises: ValueError for a value out of range or another shape; TypeError for masks of
        floating-point numbers.
    """

    def __init__(
        self,
        alpha: float = 34.0,
        sigma: float = 4.0,
        gamma: float = 1.0,
        contrast: float = 0.0,
        brightness: float = 0.0,
        fill: float = 0.0,
        mask_fill: int = 0,
    ) -> None:
        elastic_radius(sigma)
        if not 0 <= alpha < math.inf:
            raise ValueError(f"expected alpha of 0 or more, got {alpha=}")
        if not 1 <= gamma < math.inf:
            raise ValueError(f"expected gamma of 1 or more, got {gamma=}")
        if not 0 <= contrast <= 1:
            raise ValueError(f"expected contrast from 0 to 1, got {contrast=}")
        if not 0 <= brightness < math.inf:
            raise ValueError(f"expected brightness of 0 or more, got {brightness=}")
        self.alpha, self.sigma, self.gamma = alpha, sigma, gamma
        self.contrast, self.brightness = contrast, brightness
        self.fill, self.mask_fill = fill, mask_fill

    # --8<-- [start:draw]
    def draw(self, n: int, height: int, width: int) -> dict[str, Tensor]:
        """For each image its displacement, (N, 2, H, W), and three numbers, (N,)."""
        r, c, b = elastic_radius(self.sigma), self.contrast, self.brightness
        noise = torch.rand(n, 2, height + 2 * r, width + 2 * r) * 2 - 1
        bend = math.log(self.gamma)
        return {
            "displacement": elastic_displacement(noise, self.alpha, self.sigma),
            "gamma": torch.empty(n).uniform_(-bend, bend).exp(),
            "contrast": torch.empty(n).uniform_(1 - c, 1 + c),
            "brightness": torch.empty(n).uniform_(-b, b),
        }

    # --8<-- [end:draw]

    def __call__(
        self, images: Tensor, masks: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        if images.ndim != 4:
            raise ValueError(
                f"expected a batch of images (N, C, H, W), got {tuple(images.shape)}"
            )
        n, _, h, w = images.shape
        if masks is not None:
            if masks.is_floating_point():
                raise TypeError(f"expected masks of class numbers, got {masks.dtype}")
            if masks.shape != (n, h, w):
                raise ValueError(
                    f"expected masks {(n, h, w)}, got {tuple(masks.shape)}"
                )
        drawn = {k: v.to(images.device) for k, v in self.draw(n, h, w).items()}
        # --8<-- [start:together]
        field = drawn.pop("displacement")  # one, for image and mask
        images = deform_images(images, field, fill=self.fill)
        if masks is not None:
            masks = deform_images(masks[:, None], field, True, self.mask_fill)[:, 0]
        # --8<-- [end:together]
        if self.gamma > 1 or self.contrast or self.brightness:
            images = change_intensity(images, **drawn)
        return images, masks


# --8<-- [end:module]
