"""The eight symmetries of a square: what is seen from above has no right way up.

Source: Iglovikov et al., "Satellite Imagery Feature Detection using Deep Convolutional
Neural Network: A Kaggle Competition", 2017, arXiv:1706.06169, and the authors' code.
Legend: N images in the batch, C bands, H x W pixels, K boxes per image.
"""

# --8<-- [start:imports]
from collections.abc import Sequence

import torch
from torch import Tensor

# --8<-- [end:imports]


# --8<-- [start:module]
# Transposed first, then the rows reversed, then the columns.
SQUARE_SYMMETRIES = {
    "as it is": (False, False, False),
    "turn 90": (True, True, False),  # counter-clockwise
    "turn 180": (False, True, True),
    "turn 270": (True, False, True),
    "mirror": (False, False, True),
    "upside down": (False, True, False),
    "transpose": (True, False, False),
    "anti-transpose": (True, True, True),
}


def apply_symmetry(images: Tensor, symmetry: Tensor) -> Tensor:
    """Move the pixels of each image or mask by a symmetry of the square.

    Args:
        images: (N, ..., H, W), of any type and with any number of bands.
        symmetry: (N, 3), bool: transposed, rows reversed, columns reversed.

    Raises: TypeError for a symmetry that is not bool; ValueError for another shape, or a
    transposed image that is not square.
    """
    if symmetry.dtype != torch.bool:
        raise TypeError(f"expected a symmetry of bools, got {symmetry.dtype}")
    if images.ndim < 3 or symmetry.shape != (len(images), 3):
        raise ValueError(
            "expected images (N, ..., H, W) and a symmetry (N, 3), "
            f"got {tuple(images.shape)} and {tuple(symmetry.shape)}"
        )
    h, w = images.shape[-2:]
    if h != w and symmetry[:, 0].any():
        raise ValueError(f"expected square images to transpose, got {h} x {w} pixels")
    # --8<-- [start:apply]
    ones = [1] * (images.ndim - 1)
    transposed, rows, columns = (s.view(-1, *ones) for s in symmetry.unbind(1))
    x = torch.where(transposed, images.mT, images) if h == w else images
    x = torch.where(rows, x.flip(-2), x)
    return torch.where(columns, x.flip(-1), x)
    # --8<-- [end:apply]


def symmetry_boxes(boxes: Tensor, symmetry: Tensor, height: int, width: int) -> Tensor:
    """Where the boxes of each image are after `apply_symmetry`.

    Args:
        boxes: (N, K, 4), left, top, right and bottom edge, in pixels; the pixel in
            column k lies between the edges k and k + 1.
        symmetry: (N, 3), bool.
        height: of the images.
        width: of the images.
    """
    # --8<-- [start:boxes]
    transposed, rows, columns = symmetry[..., None].unbind(1)  # (N, 1) each
    swapped = torch.where(transposed[..., None], boxes[..., [1, 0, 3, 2]], boxes)
    x1, y1, x2, y2 = swapped.unbind(-1)  # (N, K) each
    y1, y2 = torch.where(rows, height - y2, y1), torch.where(rows, height - y1, y2)
    x1, x2 = torch.where(columns, width - x2, x1), torch.where(columns, width - x1, x2)
    return torch.stack([x1, y1, x2, y2], dim=-1)
    # --8<-- [end:boxes]


def symmetry_vectors(vectors: Tensor, symmetry: Tensor) -> Tensor:
    """Move two bands (N, 2, H, W) and turn what they hold: to the right, and down.

    Of a signed type, in one unit; a component to the north is that down, negated.
    """
    moved = apply_symmetry(vectors, symmetry)
    # --8<-- [start:vectors]
    transposed, rows, columns = (s.view(-1, 1, 1) for s in symmetry.unbind(1))
    swapped = torch.where(transposed[..., None], moved.flip(1), moved)
    x, y = swapped.unbind(1)  # (N, H, W) each
    x, y = torch.where(columns, -x, x), torch.where(rows, -y, y)
    # --8<-- [end:vectors]
    return torch.stack([x, y], dim=1)


def compose_symmetries(second: Tensor, first: Tensor) -> Tensor:
    """The symmetry that does `first`, then `second`; (..., 3) each."""
    # --8<-- [start:compose]
    swapped = torch.where(second[..., :1], first[..., [0, 2, 1]], first)
    return second ^ swapped
    # --8<-- [end:compose]


def inverse_symmetry(symmetry: Tensor) -> Tensor:
    """The symmetry that undoes this one; (..., 3)."""
    # --8<-- [start:inverse]
    return torch.where(symmetry[..., :1], symmetry[..., [0, 2, 1]], symmetry)
    # --8<-- [end:inverse]


class SatelliteAugmentation:
    """Give every image of a batch its own symmetry, and its mask and boxes the same.

    Square images get one of eight, others one of the four that keep their shape.

    Args:
        vectors: pairs of bands that hold a direction, to the right and down, signed.

    Shape: (N, C, H, W), masks (N, H, W), boxes (N, K, 4) -> the same; None stays None.
    Random numbers: torch's global generator on the CPU, on any device of the images.
    Raises: ValueError for another shape, or a band that the images lack.
    """

    def __init__(self, vectors: Sequence[tuple[int, int]] = ()) -> None:
        used = [band for pair in vectors for band in pair]
        if any(len(pair) != 2 for pair in vectors) or len(set(used)) != len(used):
            raise ValueError(f"expected pairs of different bands, got {vectors=}")
        if any(band < 0 for band in used):
            raise ValueError(f"expected bands from 0, got {vectors=}")
        self.vectors = tuple(vectors)

    # --8<-- [start:draw]
    def draw(self, n: int, square: bool = True) -> Tensor:
        """Three fair coins for each image, (N, 3); none to transpose a rectangle."""
        coins = torch.rand(n, 3) < 0.5
        return coins & torch.tensor([square, True, True])

    # --8<-- [end:draw]

    def __call__(
        self, images: Tensor, masks: Tensor | None = None, boxes: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if images.ndim != 4:
            raise ValueError(
                f"expected a batch of images (N, C, H, W), got {tuple(images.shape)}"
            )
        n, c, h, w = images.shape
        if any(band >= c for pair in self.vectors for band in pair):
            raise ValueError(f"expected bands below {c}, got vectors={self.vectors}")
        if masks is not None and masks.shape != (n, h, w):
            raise ValueError(f"expected masks {(n, h, w)}, got {tuple(masks.shape)}")
        if boxes is not None and (boxes.ndim != 3 or boxes.shape[::2] != (n, 4)):
            raise ValueError(f"expected boxes ({n}, K, 4), got {tuple(boxes.shape)}")
        symmetry = self.draw(n, h == w).to(images.device)
        moved = apply_symmetry(images, symmetry)
        for pair in map(list, self.vectors):
            moved[:, pair] = symmetry_vectors(images[:, pair], symmetry)
        if masks is not None:
            masks = apply_symmetry(masks, symmetry)
        if boxes is not None:
            boxes = symmetry_boxes(boxes, symmetry, h, w)
        return moved, masks, boxes


# --8<-- [end:module]
