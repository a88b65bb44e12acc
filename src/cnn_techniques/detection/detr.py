"""DETR: a transformer that predicts all objects of an image at once, as a set.

Source: Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020,
arXiv:2005.12872v3, sections 3 and A; names of parameters as in facebookresearch/detr.
Legend: N images, H x W pixels, h x w cells of the backbone's map, S = h * w, D width,
L decoder layers, Q queries, K classes, M objects of an image; boxes (x, y, w, h) are
centre and size in parts of the image's width and height, unless corners are named.
"""

# --8<-- [start:imports]
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]
from cnn_techniques.attention.multi_head_attention import MultiHeadAttention
from cnn_techniques.modern.resnet import ResNet, resnet50, resnet101


# --8<-- [start:module]
def hungarian_assignment(cost: Tensor) -> tuple[Tensor, Tensor]:
    """The one-to-one pairs of rows and columns with the least sum of costs.

    Shortest augmenting paths with potentials: O(n^2 m) for n rows or columns, the
    fewer, and m of the other. Every one of the fewer gets a partner.

    Shape: (R, C) -> (min(R, C),) rows, ascending, and as many columns.
    Raises: ValueError for another shape, and for a cost that is infinite or NaN.
    """
    if cost.ndim != 2 or not bool(cost.isfinite().all()):
        told = f"{int((~cost.isfinite()).sum())} of them not finite"
        raise ValueError(f"expected finite (R, C), got {tuple(cost.shape)}, {told}")
    n, m = cost.shape
    if n > m:
        columns, rows = hungarian_assignment(cost.T)
        order = rows.argsort()
        return rows[order], columns[order]
    # --8<-- [start:hungarian]
    costs = cost.double().tolist()
    u, v = [0.0] * n, [0.0] * (m + 1)  # potentials: costs[i][j] >= u[i] + v[j]
    row_of = [-1] * (m + 1)  # of each column; column m is where a path begins
    for row in range(n):
        column, row_of[m] = m, row
        reached, outside = [m], list(range(m))
        slack, before = [math.inf] * m, [m] * m
        while (i := row_of[column]) >= 0:  # until the path ends at a free column
            for j in outside:
                reduced = costs[i][j] - u[i] - v[j]
                if reduced < slack[j]:
                    slack[j], before[j] = reduced, column
            column = min(outside, key=slack.__getitem__)
            step = slack[column]
            for j in reached:
                u[row_of[j]] += step
                v[j] -= step
            for j in outside:
                slack[j] -= step
            outside.remove(column)
            reached.append(column)
        while column != m:  # every column of the path gets the row of the one before
            row_of[column], column = row_of[before[column]], before[column]
    # --8<-- [end:hungarian]
    pairs = sorted((i, j) for j, i in enumerate(row_of[:m]) if i >= 0)
    found = torch.tensor(pairs, dtype=torch.int64, device=cost.device).view(-1, 2)
    return found[:, 0], found[:, 1]


def detr_corners(boxes: Tensor) -> Tensor:
    """Centre and size to corners x1, y1, x2, y2: (..., 4) -> (..., 4)."""
    centre, half = boxes[..., :2], boxes[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def detr_generalized_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """IoU less the part of the hull that neither covers: (..., 4) corners -> (...).

    Both are broadcast: (A, 1, 4) and (M, 4) give every pair, (A, M).
    """
    # --8<-- [start:giou]
    inner = torch.maximum(boxes[..., :2], others[..., :2])
    outer = torch.minimum(boxes[..., :2], others[..., :2])
    inner_end = torch.minimum(boxes[..., 2:], others[..., 2:])
    outer_end = torch.maximum(boxes[..., 2:], others[..., 2:])
    both = (inner_end - inner).clamp(min=0).prod(dim=-1)
    hull = (outer_end - outer).prod(dim=-1)
    areas = ((b[..., 2:] - b[..., :2]).prod(dim=-1) for b in (boxes, others))
    union = sum(areas) - both
    giou: Tensor = both / union - (hull - union) / hull
    # --8<-- [end:giou]
    return giou


def sine_positions(mask: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Sines and cosines of each cell's place in its image: (N, h, w) -> (N, S, D).

    Args:
        mask: True in cells of the image, False in padding, which is not counted.
        width: D, a multiple of 4: half for y, half for x.
        dtype: of the result.
    """
    # --8<-- [start:positions]
    place = torch.stack([mask.cumsum(1), mask.cumsum(2)], dim=-1).to(dtype)
    last = torch.stack([place[:, -1:, :, 0].expand_as(mask),
                        place[:, :, -1:, 1].expand_as(mask)], dim=-1)  # fmt: skip
    angle = 2 * math.pi * place / (last + 1e-6)  # (N, h, w, 2), in (0, 2 pi]
    k = torch.arange(width // 4, device=mask.device, dtype=dtype)
    angles = angle[..., None] / 10000 ** (4 * k / width)  # (N, h, w, 2, D/4)
    waves = torch.stack([angles.sin(), angles.cos()], dim=-1)
    # --8<-- [end:positions]
    return waves.flatten(3).flatten(1, 2)


class DETRDotProduct(nn.Module):
    """Scaled dot-product attention, of whose weights some are dropped in training."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, mask, dropout)


class DETREncoderLayer(nn.Module):
    """Cells read from cells: (N, S, D), positions (N, S, D) -> (N, S, D)."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(width, heads, DETRDotProduct(dropout))
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        # --8<-- [start:encoder]
        place = x + positions  # queries and keys know where they are, values do not
        x = self.norm1(x + self.drop(self.self_attn(place, place, x, mask)))
        y = self.linear2(self.drop(torch.relu(self.linear1(x))))
        result: Tensor = self.norm2(x + self.drop(y))
        # --8<-- [end:encoder]
        return result


class DETRDecoderLayer(nn.Module):
    """Queries read from each other, then from the cells: (N, Q, D) -> (N, Q, D)."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = MultiHeadAttention(width, heads, DETRDotProduct(dropout))
        self.multihead_attn = MultiHeadAttention(width, heads, DETRDotProduct(dropout))
        self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, queries: Tensor, cells: tuple[Tensor, Tensor, Tensor | None]
    ) -> Tensor:
        memory, positions, mask = cells
        # --8<-- [start:decoder]
        place = x + queries
        x = self.norm1(x + self.drop(self.self_attn(place, place, x)))
        read = self.multihead_attn(x + queries, memory + positions, memory, mask)
        x = self.norm2(x + self.drop(read))
        y = self.linear2(self.drop(torch.relu(self.linear1(x))))
        result: Tensor = self.norm3(x + self.drop(y))
        # --8<-- [end:decoder]
        return result


class DETRTransformer(nn.Module):
    """Encoder over the cells, decoder over the queries.

    Shape: cells (N, S, D), positions (N, S, D), queries (Q, D) -> (L, N, Q, D), what
    each decoder layer says. The boolean mask is (N, S), True where a cell may be read.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        layers: tuple[int, int],
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        sizes = width, heads, hidden, dropout
        encoder = nn.ModuleList(DETREncoderLayer(*sizes) for _ in range(layers[0]))
        decoder = nn.ModuleList(DETRDecoderLayer(*sizes) for _ in range(layers[1]))
        norm = nn.LayerNorm(width)
        self.encoder = nn.ModuleDict({"layers": encoder})
        self.decoder = nn.ModuleDict({"layers": decoder, "norm": norm})
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, x: Tensor, positions: Tensor, queries: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        keys = (
            None if mask is None else mask[:, None, None]
        )  # for all heads and queries
        for layer in self.encoder["layers"]:  # type: ignore[attr-defined]
            x = layer(x, positions, keys)
        slots = queries.expand(x.shape[0], -1, -1)  # (N, Q, D)
        y, said = torch.zeros_like(slots), []
        for layer in self.decoder["layers"]:  # type: ignore[attr-defined]
            y = layer(y, slots, (x, positions, keys))
            said.append(self.decoder["norm"](y))  # one norm for all layers
        return torch.stack(said)


class DETRBoxHead(nn.Module):
    """Three linear layers and a sigmoid: (..., D) -> (..., 4), parts of the image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, d) for d in (width, width, 4))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return torch.sigmoid(self.layers[-1](x))


class DETRBackbone(nn.Module):
    """A ResNet, taken over without its classifier: (N, C, H, W) -> (N, C', h, w).

    Args:
        resnet: whose last stage's map is used.
        frozen: batch norms, stem and first stage stay as they are, as in the paper:
            right for pretrained weights, wrong for random ones.
    """

    def __init__(self, resnet: ResNet, frozen: bool = False) -> None:
        super().__init__()
        self.body, self.frozen = resnet, frozen
        self.body.fc = nn.Identity()  # type: ignore[assignment]
        for name, module in resnet.named_modules():
            early = name.startswith("layer1") or name == "conv1"
            if frozen and (early or isinstance(module, nn.BatchNorm2d)):
                module.requires_grad_(False)

    def train(self, mode: bool = True) -> "DETRBackbone":
        super().train(mode)
        for module in self.modules():
            if self.frozen and isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        return self.body.features(images)[-1]


class DETROutput(NamedTuple):
    """What every decoder layer says of every query; the last layer's word counts."""

    logits: Tensor  # (L, N, Q, K + 1), no object last
    boxes: Tensor  # (L, N, Q, 4)


class DETR(nn.Module):
    """A backbone's map, a transformer with Q learned queries, a class and box for each.

    Args:
        backbone: gives one map of a batch of images.
        channels: of that map.
        num_classes: K, without "no object"; the authors' weights have 91, the largest
            number of a COCO category and one.
        num_queries: Q, more than objects in any image.
        width: D, a multiple of 4.
        heads: of each attention, which must divide D.
        layers: of the encoder and of the decoder.
        hidden: width inside the feed-forward parts.
        dropout: rate in the transformer, of attention weights too.

    Shape: (N, C, H, W) -> DETROutput, for detr_loss and detr_detections. The boolean
    mask is (N, H, W), True in the image, False in padding; without it all is image.
    Raises: ValueError for sizes below 1, and images or a mask of another shape.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: int,
        num_classes: int,
        num_queries: int = 100,
        width: int = 256,
        heads: int = 8,
        layers: tuple[int, int] = (6, 6),
        hidden: int = 2048,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        if min(channels, num_classes, num_queries, hidden, *layers) < 1 or width % 4:
            given = f"{channels=}, {num_classes=}, {num_queries=}, {hidden=}, {layers=}"
            told = (
                f"expected sizes of at least 1 and a width of 4 times one, got {given}"
            )
            raise ValueError(f"{told}, {width=}")
        self.transformer = DETRTransformer(width, heads, layers, hidden, dropout)
        self.class_embed = nn.Linear(width, num_classes + 1)
        self.bbox_embed = DETRBoxHead(width)
        self.query_embed = nn.Embedding(num_queries, width)
        self.input_proj = nn.Conv2d(channels, width, 1)
        self.backbone = nn.Sequential(backbone)  # the authors' keys: backbone.0.body

    def forward(self, images: Tensor, mask: Tensor | None = None) -> DETROutput:
        if images.ndim != 4:
            raise ValueError(f"expected images (N, C, H, W), got {tuple(images.shape)}")
        shape = images.shape[0], *images.shape[2:]
        if mask is not None and (mask.shape != shape or mask.dtype != torch.bool):
            given = f"{mask.dtype} {tuple(mask.shape)}"
            raise ValueError(f"expected a boolean mask {tuple(shape)}, got {given}")
        x = self.input_proj(self.backbone(images))  # (N, D, h, w)
        cells = x.new_ones(x.shape[0], *x.shape[2:], dtype=torch.bool)
        if mask is not None:  # a cell is what its upper left pixel is
            cells = F.interpolate(mask[None].float(), x.shape[2:])[0].bool()
        positions = sine_positions(cells, x.shape[1], x.dtype)
        readable = None if mask is None else cells.flatten(1)
        tokens = x.flatten(2).transpose(1, 2)  # (N, S, D)
        y = self.transformer(tokens, positions, self.query_embed.weight, readable)
        return DETROutput(self.class_embed(y), self.bbox_embed(y))


Targets = Sequence[dict[str, Tensor]]


@torch.no_grad()
def detr_match(
    logits: Tensor, boxes: Tensor, target: dict[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """The queries and objects of an image that are paired, each at most once.

    Shape: logits (Q, K + 1), boxes (Q, 4) -> queries (min(Q, M),), objects likewise.
    """
    # --8<-- [start:match]
    probability = logits.softmax(-1)[:, target["labels"]]  # (Q, M)
    l1 = (boxes[:, None] - target["boxes"]).abs().sum(-1)
    corners, wanted = detr_corners(boxes), detr_corners(target["boxes"])
    giou = detr_generalized_iou(corners[:, None], wanted)
    return hungarian_assignment(5 * l1 - 2 * giou - probability)
    # --8<-- [end:match]


def detr_loss(
    output: DETROutput, targets: Targets, no_object: float = 0.1
) -> dict[str, Tensor]:
    """Cross-entropy, 5 times L1 and 2 times 1 - GIoU, each summed over decoder layers.

    Every layer is matched anew. L1 and GIoU are sums over all matched pairs of the
    batch through its number of objects.

    Args:
        output: of DETR.
        targets: for each image boxes (M, 4), as x y w h of centre and size in parts of
            the image, and labels (M,), integers in 0..K-1; M may be 0.
        no_object: weight of a query without an object in the cross-entropy.

    Raises: ValueError for labels or boxes out of range, as those in pixels.
    """
    classes = output.logits.shape[-1] - 1
    _check_detr_targets(targets, output.logits.shape[1], classes)
    weight = output.logits.new_ones(classes + 1)
    weight[-1] = no_object
    count = max(sum(len(target["labels"]) for target in targets), 1)
    total = output.logits.new_zeros(3)
    for logits, boxes in zip(*output, strict=True):  # a decoder layer: (N, Q, ...)
        # --8<-- [start:loss]
        wanted = torch.full(logits.shape[:2], classes, device=logits.device)  # (N, Q)
        distances = []
        for i, target in enumerate(targets):
            query, item = detr_match(logits[i], boxes[i], target)
            wanted[i, query] = target["labels"][item].long()
            box, exact = boxes[i, query], target["boxes"][item]
            giou = detr_generalized_iou(detr_corners(box), detr_corners(exact))
            distances.append(torch.stack([(box - exact).abs().sum(), (1 - giou).sum()]))
        l1, overlap = torch.stack(distances).sum(dim=0) / count
        entropy = F.cross_entropy(logits.transpose(1, 2), wanted, weight)
        total = total + torch.stack([entropy, 5 * l1, 2 * overlap])
        # --8<-- [end:loss]
    return dict(zip(("classification", "l1", "giou"), total.unbind(), strict=True))


def _check_detr_targets(targets: Targets, images: int, classes: int) -> None:
    if len(targets) != images:
        raise ValueError(f"{len(targets)} targets for {images} images")
    for target in targets:
        boxes, labels = target["boxes"], target["labels"]
        if boxes.shape != (len(labels), 4) or labels.is_floating_point():
            given = f"{tuple(boxes.shape)}, {labels.dtype} {tuple(labels.shape)}"
            raise ValueError(f"expected boxes (M, 4), integer labels (M,), got {given}")
        if bool(((labels < 0) | (labels >= classes)).any()):
            raise ValueError(f"labels must be in 0..{classes - 1}, got {labels}")
        inside = (boxes >= -0.001) & (boxes <= 1.001)  # also False for NaN
        if not bool(inside.all() and (boxes[:, 2:] > 0).all()):
            told = "boxes as centre and size in parts of the image, sizes above 0"
            raise ValueError(f"expected {told}, got {boxes.tolist()}")


@torch.no_grad()
def detr_detections(
    output: DETROutput, sizes: Sequence[tuple[int, int]], score_threshold: float = 0.0
) -> list[dict[str, Tensor]]:
    """For each image boxes (M, 4), scores (M,) and labels (M,), in the queries' order.

    Args:
        output: of DETR, whose last decoder layer is read.
        sizes: height and width of each image, without padding; boxes come as corners
            x1 y1 x2 y2 in these pixels.
        score_threshold: queries with a score that is not above it are left out.
    """
    logits, boxes = output.logits[-1], output.boxes[-1]
    if len(sizes) != len(logits):
        raise ValueError(f"{len(sizes)} sizes for {len(logits)} images")
    scores, labels = logits.softmax(-1)[..., :-1].max(-1)  # (N, Q)
    found = []
    for i, (height, width) in enumerate(sizes):
        keep = scores[i] > score_threshold
        corners = detr_corners(boxes[i, keep])
        scale = corners.new_tensor([width, height, width, height])
        kept = {"boxes": corners * scale, "scores": scores[i, keep]}
        found.append({**kept, "labels": labels[i, keep]})
    return found


def detr_resnet50(num_classes: int = 91) -> DETR:
    """On ResNet-50; key names and shapes are the authors'."""
    return DETR(DETRBackbone(resnet50(), frozen=True), 2048, num_classes)


def detr_resnet101(num_classes: int = 91) -> DETR:
    """On ResNet-101; key names and shapes are the authors'."""
    return DETR(DETRBackbone(resnet101(), frozen=True), 2048, num_classes)


# --8<-- [end:module]
