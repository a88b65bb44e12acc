"""Basic augmentation: training images are mirrored, shifted, turned and recoloured.

Source: Krizhevsky et al., "ImageNet Classification with Deep Convolutional Neural
Networks", NIPS 2012 (crops and mirror images); colours as in Pillow and torchvision.
Legend: N images in the batch, C channels, H x W pixels.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
def flip_images(images: Tensor, flipped: Tensor) -> Tensor:
    """Mirror images (N, C, H, W) left and right where `flipped` (N,) is True."""
    # --8<-- [start:flip]
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)
    # --8<-- [end:flip]


def crop_images(
    images: Tensor, top: Tensor, left: Tensor, padding: int, fill: float = 0.0
) -> Tensor:
    """Pad images (N, C, H, W) on all sides and cut out H x W pixels of each.

    Args:
        top: (N,), integers from 0 to 2 * padding; `padding` moves nothing.
        left: the same, sideways.
        padding: in pixels.
        fill: value of the pixels that come in.
    """
    n, c, h, w = images.shape
    # --8<-- [start:crop]
    padded = F.pad(images, [padding] * 4, value=fill)
    rows = top[:, None] + torch.arange(h, device=images.device)  # (N, H)
    columns = left[:, None] + torch.arange(w, device=images.device)  # (N, W)
    image = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(c, device=images.device)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
    # --8<-- [end:crop]


def rotate_images(images: Tensor, degrees: Tensor, fill: float = 0.0) -> Tensor:
    """Turn images (N, C, H, W) counter-clockwise about their centres, bilinearly.

    Args:
        degrees: (N,), floating point.
        fill: value of the pixels that come in.
    """
    h, w = images.shape[-2:]
    pixels = _floating(images)
    # --8<-- [start:rotate]
    angle = torch.deg2rad(degrees.to(pixels))[:, None, None]  # (N, 1, 1)
    x = torch.arange(w).to(pixels) - (w - 1) / 2  # (W,), from the centre
    y = (torch.arange(h).to(pixels) - (h - 1) / 2)[:, None]  # (H, 1), downwards
    from_x = angle.cos() * x - angle.sin() * y  # (N, H, W), where a pixel is taken
    from_y = angle.sin() * x + angle.cos() * y
    grid = torch.stack([from_x / (w / 2), from_y / (h / 2)], dim=-1)  # in -1 .. 1
    turned = F.grid_sample(pixels - fill, grid, align_corners=False) + fill
    # --8<-- [end:rotate]
    return turned if images.is_floating_point() else turned.round().to(images.dtype)


def _floating(images: Tensor) -> Tensor:
    return images if images.is_floating_point() else images.float()


def mix_images(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Go from `other` (0) to the images (1) and beyond by a factor for each, (N,).

    The result is kept from 0 to 1, or to 255 for integers, which are rounded down.
    """
    # --8<-- [start:mix]
    factor = factor.to(_floating(images))[:, None, None, None]  # (N, 1, 1, 1)
    mixed = factor * images + (1 - factor) * other
    # --8<-- [end:mix]
    largest = 1 if images.is_floating_point() else 255
    return mixed.clamp(0, largest).to(images.dtype)


def grey_images(images: Tensor) -> Tensor:
    """Brightness of each pixel, (N, 3 or 1, H, W) -> (N, 1, H, W), floating point."""
    if images.shape[1] == 1:
        return _floating(images)
    red, green, blue = _floating(images).unbind(1)
    grey = (0.2989 * red + 0.587 * green + 0.114 * blue)[:, None]
    return grey if images.is_floating_point() else grey.floor()


def turn_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Move the hue of colours (N, 3, H, W) round the circle, (N,) from -0.5 to 0.5."""
    if images.shape[1] == 1:
        return images
    whole = 1 if images.is_floating_point() else 255
    # --8<-- [start:hue]
    rgb = _floating(images) / whole
    value, chroma = rgb.amax(1), rgb.amax(1) - rgb.amin(1)  # (N, H, W)
    red, green, blue = rgb.unbind(1)
    around = torch.where(
        value == red,
        (green - blue) / chroma,
        torch.where(
            value == green, 2 + (blue - red) / chroma, 4 + (red - green) / chroma
        ),
    )  # -1 to 5: red is 0, green 2, blue 4
    hue = around.nan_to_num() + 6 * turn.to(rgb)[:, None, None]
    k = (
        torch.tensor([5, 3, 1]).to(rgb)[:, None, None] + hue[:, None]
    ) % 6  # (N, 3, H, W)
    turned = value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)
    # --8<-- [end:hue]
    return turned if whole == 1 else (turned * 255.999).to(images.dtype)


class BasicAugmentation:
    """Mirror, shift, turn and recolour every image of a batch, each by its own draw.

    Args:
        flip: probability that an image is mirrored left and right.
        padding: an image is shifted by up to so many pixels each way.
        degrees: it is turned by up to so much each way.
        brightness: b, a factor is drawn from 1 - b to 1 + b.
        contrast: likewise.
        saturation: likewise.
        hue: up to so much of the colour circle each way, at most 0.5.
        fill: value of the pixels that come in.

    Shape: (N, C, H, W) -> (N, C, H, W); colours need one or three channels, floating
    point from 0 to 1 or integers to 255.
    Random numbers: torch's global generator on the CPU, on any device of the images.
    Raises: ValueError for a value out of range, or images of another shape or range.
    """

    def __init__(
        self,
        flip: float = 0.5,
        padding: int = 4,
        degrees: float = 0.0,
        brightness: float = 0.0,
        contrast: float = 0.0,
        saturation: float = 0.0,
        hue: float = 0.0,
        fill: float = 0.0,
    ) -> None:
        if padding < 0 or padding != int(padding):
            raise ValueError(f"expected a padding of 0 pixels or more, got {padding=}")
        self.colours = {
            "brightness": brightness,
            "contrast": contrast,
            "saturation": saturation,
        }
        limits = {"flip": (flip, 1), "degrees": (degrees, 180), "hue": (hue, 0.5)}
        limits |= {name: (value, 1) for name, value in self.colours.items()}
        for name, (value, limit) in limits.items():
            if not 0 <= value <= limit:
                raise ValueError(f"expected {name} from 0 to {limit}, got {value}")
        self.flip, self.padding, self.degrees = flip, int(padding), degrees
        self.hue, self.fill = hue, fill

    # --8<-- [start:draw]
    def draw(self, n: int) -> dict[str, Tensor]:
        """What is done to each image, (N,) for each name."""
        shift = 2 * self.padding + 1
        drawn = {
            "flipped": torch.rand(n) < self.flip,
            "top": torch.randint(shift, (n,)),
            "left": torch.randint(shift, (n,)),
            "degrees": torch.empty(n).uniform_(-self.degrees, self.degrees),
            "hue": torch.empty(n).uniform_(-self.hue, self.hue),
        }
        for name, b in self.colours.items():
            drawn[name] = torch.empty(n).uniform_(1 - b, 1 + b)
        return drawn

    # --8<-- [end:draw]

    def apply(self, images: Tensor, drawn: dict[str, Tensor]) -> Tensor:
        """Do what was drawn, in this order; what is not asked for is left out."""
        d = {name: value.to(images.device) for name, value in drawn.items()}
        if self.flip:
            images = flip_images(images, d["flipped"])
        if self.padding:
            images = crop_images(images, d["top"], d["left"], self.padding, self.fill)
        if self.degrees:
            images = rotate_images(images, d["degrees"], self.fill)
        if self.colours["brightness"]:
            images = mix_images(images, torch.zeros(()).to(images), d["brightness"])
        if self.colours["contrast"]:
            mean = grey_images(images).mean(dim=(1, 2, 3), keepdim=True)
            images = mix_images(images, mean, d["contrast"])
        if self.colours["saturation"] and images.shape[1] == 3:
            images = mix_images(images, grey_images(images), d["saturation"])
        return turn_hue(images, d["hue"]) if self.hue else images

    def __call__(self, images: Tensor) -> Tensor:
        if images.ndim != 4:
            raise ValueError(
                f"expected a batch of images (N, C, H, W), got {tuple(images.shape)}"
            )
        if self.hue or any(self.colours.values()):
            if images.shape[1] not in (1, 3):
                raise ValueError(
                    f"expected 1 or 3 channels for colours, got {tuple(images.shape)}"
                )
            top = 1 if images.is_floating_point() else 255
            if images.numel() and not 0 <= images.min() <= images.max() <= top:
                span = f"{images.min():.3g} to {images.max():.3g}"
                raise ValueError(f"expected colours from 0 to {top}, got {span}")
        return self.apply(images, self.draw(len(images)))


# --8<-- [end:module]
