"""AutoAugment: for each image one of 25 pairs of operations, found by a search.

Source: Cubuk et al., "AutoAugment: Learning Augmentation Strategies from Data", CVPR
2019, arXiv:1805.09501; policies and ranges as torchvision has them.
Legend: N images in the batch, C channels (1 or 3), H x W pixels.
"""

# --8<-- [start:imports]
import torch
from torch import Tensor

# --8<-- [end:imports]
from cnn_techniques.training.image_operations import ImageOperation, operation_table

# --8<-- [start:module]
# Pairs of operations: name, probability, and the magnitude's number from 0 to 9.
AUTOAUGMENT_POLICIES = {
    "imagenet": (
        (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, None)),
        (("Equalize", 0.8, None), ("Equalize", 0.6, None)),
        (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
        (("Equalize", 0.4, None), ("Solarize", 0.2, 4)),
        (("Equalize", 0.4, None), ("Rotate", 0.8, 8)),
        (("Solarize", 0.6, 3), ("Equalize", 0.6, None)),
        (("Posterize", 0.8, 5), ("Equalize", 1.0, None)),
        (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
        (("Equalize", 0.6, None), ("Posterize", 0.4, 6)),
        (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
        (("Rotate", 0.4, 9), ("Equalize", 0.6, None)),
        (("Equalize", 0.0, None), ("Equalize", 0.8, None)),
        (("Invert", 0.6, None), ("Equalize", 1.0, None)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
        (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
        (("Sharpness", 0.4, 7), ("Invert", 0.6, None)),
        (("ShearX", 0.6, 5), ("Equalize", 1.0, None)),
        (("Color", 0.4, 0), ("Equalize", 0.6, None)),
        (("Equalize", 0.4, None), ("Solarize", 0.2, 4)),
        (("Solarize", 0.6, 5), ("AutoContrast", 0.6, None)),
        (("Invert", 0.6, None), ("Equalize", 1.0, None)),
        (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
        (("Equalize", 0.8, None), ("Equalize", 0.6, None)),
    ),
    "cifar10": (
        (("Invert", 0.1, None), ("Contrast", 0.2, 6)),
        (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
        (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
        (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.5, None), ("Equalize", 0.9, None)),
        (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
        (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
        (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
        (("Equalize", 0.6, None), ("Equalize", 0.5, None)),
        (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
        (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
        (("Equalize", 0.3, None), ("AutoContrast", 0.4, None)),
        (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
        (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
        (("Solarize", 0.5, 2), ("Invert", 0.0, None)),
        (("Equalize", 0.2, None), ("AutoContrast", 0.6, None)),
        (("Equalize", 0.2, None), ("Equalize", 0.6, None)),
        (("Color", 0.9, 9), ("Equalize", 0.6, None)),
        (("AutoContrast", 0.8, None), ("Solarize", 0.2, 8)),
        (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
        (("Solarize", 0.4, 5), ("AutoContrast", 0.9, None)),
        (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
        (("AutoContrast", 0.9, None), ("Solarize", 0.8, 3)),
        (("Equalize", 0.8, None), ("Invert", 0.1, None)),
        (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, None)),
    ),
    "svhn": (
        (("ShearX", 0.9, 4), ("Invert", 0.2, None)),
        (("ShearY", 0.9, 8), ("Invert", 0.7, None)),
        (("Equalize", 0.6, None), ("Solarize", 0.6, 6)),
        (("Invert", 0.9, None), ("Equalize", 0.6, None)),
        (("Equalize", 0.6, None), ("Rotate", 0.9, 3)),
        (("ShearX", 0.9, 4), ("AutoContrast", 0.8, None)),
        (("ShearY", 0.9, 8), ("Invert", 0.4, None)),
        (("ShearY", 0.9, 5), ("Solarize", 0.2, 6)),
        (("Invert", 0.9, None), ("AutoContrast", 0.8, None)),
        (("Equalize", 0.6, None), ("Rotate", 0.9, 3)),
        (("ShearX", 0.9, 4), ("Solarize", 0.3, 3)),
        (("ShearY", 0.8, 8), ("Invert", 0.7, None)),
        (("Equalize", 0.9, None), ("TranslateY", 0.6, 6)),
        (("Invert", 0.9, None), ("Equalize", 0.6, None)),
        (("Contrast", 0.3, 3), ("Rotate", 0.8, 4)),
        (("Invert", 0.8, None), ("TranslateY", 0.0, 2)),
        (("ShearY", 0.7, 6), ("Solarize", 0.4, 8)),
        (("Invert", 0.6, None), ("Rotate", 0.8, 4)),
        (("ShearY", 0.3, 7), ("TranslateX", 0.9, 3)),
        (("ShearX", 0.1, 6), ("Invert", 0.6, None)),
        (("Solarize", 0.7, 2), ("TranslateY", 0.6, 7)),
        (("ShearY", 0.8, 4), ("Invert", 0.8, None)),
        (("ShearX", 0.7, 9), ("TranslateY", 0.8, 3)),
        (("ShearY", 0.8, 5), ("AutoContrast", 0.7, None)),
        (("ShearX", 0.7, 2), ("Invert", 0.1, None)),
    ),
}


class AutoAugment:
    """Change each image by one of the 25 pairs of a policy.

    Args:
        policy: "imagenet", "cifar10" or "svhn", after the images it was found on.

    Shape: (C, H, W) or (N, C, H, W), uint8 -> the same; each image has its own draw.
    Random numbers: torch's global generator, in the order of torchvision.
    Raises: ValueError for another policy or images of another shape; TypeError for
        images that are not uint8.
    """

    def __init__(self, policy: str = "imagenet") -> None:
        if policy not in AUTOAUGMENT_POLICIES:
            expected = ", ".join(map(repr, AUTOAUGMENT_POLICIES))
            raise ValueError(f"expected a policy of {expected}, got {policy!r}")
        self.policy = policy

    def operations(self, height: int, width: int) -> dict[str, ImageOperation]:
        """Those for an image of this size, with ten magnitudes."""
        # --8<-- [start:ranges]
        shift = [150 / 331 * width, 150 / 331 * height]
        return operation_table(
            10, shear=0.3, shift=shift, angle=30.0, change=0.9, bits=4
        )
        # --8<-- [end:ranges]

    def draw(self, height: int, width: int) -> list[tuple[str, float | None]]:
        """Names of none, one or two operations, and their magnitudes."""
        table, drawn = self.operations(height, width), []
        # --8<-- [start:draw]
        pairs = AUTOAUGMENT_POLICIES[self.policy]
        for name, p, number in pairs[int(torch.randint(len(pairs), ()))]:
            if torch.rand(()) <= p:
                drawn.append((name, table[name].magnitude(number or 0)))
        # --8<-- [end:draw]
        return drawn

    def __call__(self, images: Tensor) -> Tensor:
        if images.dtype != torch.uint8:
            raise TypeError(f"expected images of torch.uint8, got {images.dtype}")
        if images.ndim not in (3, 4) or images.numel() == 0:
            raise ValueError(
                "expected an image (C, H, W) or images (N, C, H, W), "
                f"got {tuple(images.shape)}"
            )
        if images.ndim == 4:
            return torch.stack([self(image) for image in images])
        height, width = images.shape[-2:]
        table = self.operations(height, width)
        for name, magnitude in self.draw(height, width):
            images = table[name](images, magnitude)
        return images


# --8<-- [end:module]
