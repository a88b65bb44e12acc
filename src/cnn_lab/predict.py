"""What a trained network takes images for: classes and their probabilities.

Images are given to the network as those of a test are, one after another.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import objects, own, show
from .evaluate import load_network, refuse_overwriting, saved_input_format
from .explain import explained, last_places
from .fit import BadData
from .photos import ENDINGS, Photos, hidden
from .pictures import Pictures
from .saved import write_json
from .stop import Refused

Json = dict[str, Any]
BATCH = 64


def predict(
    path: Path,
    images: Sequence[Path],
    top: int = 5,
    progress: show.ProgressCallback | None = None,
    network: str = "",
    pictures: Pictures | None = None,
) -> Json:
    """The most probable classes of images, by the network of a checkpoint.

    Args:
        images: files, and folders, of which all photos below are taken.
        top: how many classes of each, at most.
        progress: called with how many images are done, of how many.
        network: of one's own, as `load_network` takes it.
        pictures: where to draw what speaks for the most probable class of each image.

    Returns "checkpoint", "network" and "images": for each its "file" and "classes" (each
    with "name" and "probability", the most probable first) and its "picture" if there is
    one, or its "file" and "error".
    Raises: NotACheckpoint; FloatingPointError for scores that are not finite; ValueError
    for a `top` below 1; Refused for a network whose classes cannot be drawn.
    """
    if top < 1:
        raise ValueError(f"top is {top}, expected at least 1")
    model, state = load_network(path, network)
    if own.is_own(state["recipe"]["data"]):
        raise Refused(
            f"{path} was trained on {state['recipe']['data']!r}, whose transforms it does "
            "not hold: give images to its network in Python"
        )
    device = torch.accelerator.current_accelerator(True) or torch.device("cpu")
    model.to(device)
    rows: list[Json] = [row for image in images for row in rows_of(image)]
    input_format = saved_input_format(state)
    mean, std = (torch.tensor(state[k])[:, None, None] for k in ("mean", "std"))
    if pictures is not None:
        pictures.spare(Path(row["file"]) for row in rows)
        blank = torch.zeros(1, len(state["mean"]), *[input_format.size or 224] * 2)
        layer = last_places(model, blank.to(device))
    waiting: list[tuple[Json, Tensor]] = []

    def flush() -> None:
        if not waiting:
            return
        with torch.no_grad():
            scores = model(torch.cat([x for _, x in waiting]).to(device)).cpu()
        if not scores.isfinite().all():
            raise FloatingPointError(f"{path}: the network's scores are not finite")
        top_classes = scores.double().softmax(dim=1).topk(min(top, scores.shape[1]))
        for (row, x), *best in zip(
            waiting, *map(Tensor.tolist, top_classes), strict=True
        ):
            row["classes"] = [
                {"name": state["classes"][label], "probability": probability}
                for probability, label in zip(*best, strict=True)
            ]
            if pictures is not None:
                seen = x[0] * std + mean
                drawn = explained(model, layer, x.to(device), seen, best[1][0])
                row["picture"] = pictures.write(drawn, Path(row["file"]))
        waiting.clear()

    for done, row in enumerate(rows, 1):
        if "error" not in row:
            try:
                image = Photos([(row["file"], 0)], input_format).take(
                    torch.tensor([0]), torch.empty(1, 0)
                )[0]
                waiting.append((row, image))
            except BadData as error:
                row["error"] = str(error)
        if len(waiting) == BATCH or done == len(rows):
            flush()
        if progress is not None:
            progress(done, len(rows))
    return {
        "checkpoint": str(path),
        "network": state["recipe"]["network"],
        "images": rows,
    }


def rows_of(path: Path) -> Iterator[Json]:
    """A row for the file, or for each photo below the folder."""
    if not path.is_dir():
        error = {} if path.exists() else {"error": f"there is no image {path}"}
        yield {"file": str(path), **error}
        return
    count = 0
    for root, inner, files in os.walk(path, followlinks=True):
        inner[:] = sorted(name for name in inner if not hidden(name))
        for name in sorted(files):
            if not hidden(name) and name.lower().endswith(ENDINGS):
                count += 1
                yield {"file": str(Path(root) / name)}
    if not count:
        yield {"file": str(path), "error": f"{path} has no photo"}


def report(
    path: Path,
    images: Sequence[Path],
    top: int,
    as_json: Path | None,
    network: str = "",
    out: Path | None = None,
    explain: bool = False,
) -> None:
    """Predict, and show it: on stdout, as JSON (`-`: on stdout instead).

    Raises: Refused for pictures that cannot be drawn, and at the end where an image could
    not be read.
    """
    refuse_overwriting(as_json, path)
    drawn = objects.task_of(path) is not None
    if out and not drawn and not explain:
        raise Refused(
            f"--out {out}: the network of {path} draws nothing, it tells classes; with "
            "--explain what speaks for them is drawn"
        )
    if explain and drawn:
        raise Refused(f"--explain: what the network of {path} finds is drawn anyway")
    with show.bar("images", sys.stderr) as progress:
        if drawn:
            result = objects.predict(path, images, out, progress)
        else:
            folder = out or path.parent / "predictions"
            pictures = Pictures(folder) if explain else None
            result = predict(path, images, top, progress, network, pictures)
    rows = result["images"]
    if as_json == Path("-"):
        print(json.dumps(result, indent=1))
    else:
        for row in rows:
            if "error" not in row:
                told = _objects(row) if drawn else _line(row["classes"])
                place = f" ({row['picture']})" if "picture" in row else ""
                print(f"{row['file']}: {told}{place}")
        if as_json:
            write_json(as_json, result)
    sys.stdout.flush()
    errors = [row["error"] for row in rows if "error" in row]
    for error in errors:
        print(f"cnn-lab: {' '.join(error.split())}", file=sys.stderr)
    if errors:
        raise Refused(f"{len(errors)} of {len(rows)} images could not be read")


def _objects(row: Json) -> str:
    """What was found."""
    if "objects" in row:
        found = [f"{o['name']} {o['score']:.1%}" for o in row["objects"]]
    else:
        found = [f"{name} {share:.1%}" for name, share in row["classes"].items()]
    return ", ".join(found) or "nothing"


def _line(classes: list[Json]) -> str:
    return ", ".join(f"{c['name']} {c['probability']:.1%}" for c in classes)
