"""Does a network find things? The same scenes and one recipe for all that find or label.

Scenes of 96 pixels with two to five handwritten digits that may overlap. The recipe is
nobody's best: it shows that a network learns, and with what it costs to do so here.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data import Scenes, Split, scenes
from .fit import fit, steps
from .record import interval, repeat

Json = dict[str, Any]
Targets = list[dict[str, Tensor]]
CLASSES = 11  # the background and ten digits


def trial_scenes(count: int, seed: int, split: Split = "train") -> Scenes:
    """The scenes of every trial: 96 x 96 pixels, digits of 29 to 48 pixels."""
    return scenes(count, 96, seed, split, objects=(2, 5), side=(0.3, 0.5), overlap=0.3)


def normalized(images: Tensor, channels: int = 3) -> Tensor:
    """Scenes (N, 1, H, W) with about mean 0 and deviation 1, in equal channels."""
    return ((images - 0.35) / 0.2).expand(-1, channels, -1, -1)


def pixel_loss(auxiliary: float = 0.0) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Cross-entropy of each pixel, the background's weight 0.2, that of a digit 1.

    Args:
        auxiliary: weight of the loss of further scores, where a network returns a tuple.
    """

    def loss(model: nn.Module, images: Tensor, masks: Tensor) -> Tensor:
        out = model(images)
        first, *rest = out if isinstance(out, tuple) else (out,)
        weight = torch.tensor([0.2] + (CLASSES - 1) * [1.0])  # most is background
        total = F.cross_entropy(first, masks, weight=weight)
        for scores in rest:
            total = total + auxiliary * F.cross_entropy(scores, masks, weight=weight)
        return total

    return loss


def learn_masks(
    model: nn.Module,
    *,
    learning_rate: float = 2e-3,
    auxiliary: float = 0.0,
    channels: int = 3,
    count: int = 1600,
    epochs: int = 8,
    tests: int = 200,
    seed: int = 0,
) -> Json:
    """Train on scenes to label every pixel; test on scenes of scans that none holds.

    AdamW, weight decay 1e-4, batches of 8, a one-cycle schedule.

    Args:
        model: (N, channels, 96, 96) to scores (N, 11, 96, 96), class 0 the background;
            of a tuple the first counts.
        auxiliary: weight of the loss of a tuple's further scores.

    Returns: mean IoU over the eleven classes of the test scenes' pixels taken together,
        the IoU of each class, the share of right pixels, the loss by epoch, and the
        first four scenes' labels, after the last epoch.
    """
    from torchmetrics.classification import MulticlassJaccardIndex

    seen, unseen = trial_scenes(count, seed), trial_scenes(tests, 0, "test")
    curve = _trained(
        model,
        (normalized(seen.images, channels), seen.masks),
        pixel_loss(auxiliary),
        (epochs, learning_rate, 1e-4, seed),
    )
    scores = answers(model, normalized(unseen.images, channels))
    labels = torch.cat([s[0] if isinstance(s, tuple) else s for s in scores]).argmax(1)
    each = MulticlassJaccardIndex(CLASSES, average=None)(labels, unseen.masks)
    return {
        "iou": each.mean().item(),
        "ious": each.tolist(),
        "pixels": (labels == unseen.masks).double().mean().item(),
        "curve": curve,
        "first": packed(labels[:4]),
    }


def learn_boxes(
    model: nn.Module,
    loss: Callable[[nn.Module, Tensor, Targets], Tensor],
    find: Callable[[Any], Targets],
    *,
    masks: bool = False,
    learning_rate: float = 2e-3,
    channels: int = 3,
    count: int = 1600,
    epochs: int = 8,
    tests: int = 200,
    seed: int = 0,
) -> Json:
    """Train on scenes to find their digits; test on scenes of scans that none holds.

    AdamW, weight decay 0.01, batches of 8, a one-cycle schedule.

    Args:
        model: (N, channels, 96, 96) to whatever the next two understand.
        loss: of the model, images, and per image boxes (M, 4) as x1, y1, x2, y2 and
            labels (M,) from 0 to 9, with `masks` also masks (M, 96, 96).
        find: from the model's output, in evaluation mode, to boxes, labels and scores of
            each image, with `masks` also masks; at most 100 count.

    Returns: average precision as COCO's, over IoU thresholds ("map") and at 0.5 and
        0.75, of boxes and with `masks` of masks ("mask_map" and so on), the loss by
        epoch, and what is found in the first nine scenes with a score above one half.
    """
    from torchmetrics.detection import MeanAveragePrecision

    seen, unseen = trial_scenes(count, seed), trial_scenes(tests, 0, "test")
    targets, truth = (
        s.targets_with_masks if masks else s.targets for s in (seen, unseen)
    )
    curve = _trained(
        model,
        (normalized(seen.images, channels), targets),
        loss,
        (epochs, learning_rate, 0.01, seed),
    )
    found: Targets = []
    for out in answers(model, normalized(unseen.images, channels), find):
        found += out
    kinds = ("bbox", "segm") if masks else ("bbox",)
    result: Json = {"curve": curve, "predictions": [sure(one) for one in found[:9]]}
    for kind, prefix in zip(kinds, ("", "mask_"), strict=False):
        metric = MeanAveragePrecision(iou_type=kind, backend="pycocotools")  # type: ignore[arg-type]
        metric.update(found, truth)
        scores = metric.compute()
        for key in ("map", "map_50", "map_75"):
            result[prefix + key] = scores[key].item()
    return result


def sure(found: dict[str, Tensor]) -> Json:
    """What was found with a score above one half, in numbers short enough to keep."""
    keep = found["scores"] > 0.5
    short: Json = {
        "boxes": [[round(v, 1) for v in b] for b in found["boxes"][keep].tolist()],
        "labels": found["labels"][keep].tolist(),
        "scores": [round(s, 3) for s in found["scores"][keep].tolist()],
    }
    if "masks" in found:
        short["masks"] = packed(found["masks"][keep])
    return short


def packed(labels: Tensor) -> str:
    """Small whole numbers of any shape as short text; `unpacked` is the way back."""
    import base64
    import zlib

    data = zlib.compress(labels.to(torch.uint8).contiguous().numpy().tobytes(), 9)
    return base64.b64encode(data).decode()


def unpacked(text: str, *shape: int) -> Tensor:
    """What `packed` made text of, in its shape (one size may be -1), as int64."""
    import base64
    import zlib

    data = bytearray(zlib.decompress(base64.b64decode(text)))
    if not data:
        return torch.zeros([0 if side == -1 else side for side in shape]).long()
    return torch.frombuffer(data, dtype=torch.uint8).view(shape).long()


def scene_trials(
    run: Callable[..., Json],
    seeds: Sequence[int],
    cache: Path,
    arms: Mapping[str, tuple[str, Json]],
) -> Json:
    """Run every arm with every seed, resumable, as the rows that pages show.

    Args:
        run: `run(**arguments, seed=seed)` returns what `learn_masks` or `learn_boxes` does.
        arms: key -> name on the page, arguments of `run`.

    Returns: for each arm every number with its interval and values, the loss after the
        last epoch, and of the first seed what it found.
    """
    results = repeat(run, {key: a for key, (_, a) in arms.items()}, seeds, cache)
    rows: Json = {}
    for key, (name, _) in arms.items():
        runs = results[key]
        rows[key] = {"name": name, "curve": [run["curve"] for run in runs]}
        for number in (k for k, v in runs[0].items() if isinstance(v, float)):
            values = [run[number] for run in runs]
            rows[key][number] = {**interval(values), "values": values}
        rows[key]["loss"] = interval([run["curve"][-1] for run in runs])
        for shown in ("first", "predictions"):
            if shown in runs[0]:
                rows[key][shown] = runs[0][shown]
    return {"seeds": len(seeds), "arms": rows}


@torch.no_grad()
def answers(
    model: nn.Module, images: Tensor, find: Callable[[Any], Any] = lambda out: out
) -> list[Any]:
    """What the model says of every 50 images, in evaluation mode."""
    model.eval()
    return [find(model(batch)) for batch in images.split(50)]


def _trained(
    model: nn.Module,
    data: tuple[Tensor, Any],
    loss: Callable[[nn.Module, Tensor, Any], Tensor],
    recipe: tuple[int, float, float, int],
) -> list[float]:
    epochs, learning_rate, decay, seed = recipe
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=learning_rate, weight_decay=decay
    )
    total = steps(len(data[0]), epochs=epochs, batch_size=8)
    history = fit(
        model,
        data,
        epochs=epochs,
        batch_size=8,
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.OneCycleLR(
            optimizer, learning_rate, total_steps=total, pct_start=0.1
        ),
        loss=loss,
        seed=seed,
    )
    torch.optim.swa_utils.update_bn(data[0].split(100), model)
    return [epoch["loss"] for epoch in history]
