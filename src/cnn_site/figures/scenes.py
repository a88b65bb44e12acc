"""Pictures of the scenes on which detectors and segmenters are tried: what a recorded network finds in them."""

from typing import Any

from cnn_site.evidence import load

from .pictures import Mark, Picture, label_map, pictures_svg

DIGITS = ["", *"0123456789"]  # no name for the background


def found_in_scenes(slug: str, name: str, by_heart: bool = False) -> dict[str, str]:
    """Boxes, and masks where there are some, that the network of the first seed is sure of, in six scenes.

    Args:
        slug: of the page whose record has a trial; without one there is no figure.
        by_heart: the scenes are those of the training.
    """
    from cnn_lab.scene_trial import trial_scenes, unpacked

    arm = _arm(slug)
    if arm is None:
        return {}
    found = arm["predictions"][:6]
    scenes = trial_scenes(len(found), 0, "train" if by_heart else "test")
    cells = []
    for image, labels, one in zip(scenes.images, scenes.labels, found, strict=True):
        picture = image[0]
        if "masks" in one:
            masks = unpacked(one["masks"], -1, *image.shape[1:])
            colours = masks.new_zeros(image.shape[1:])
            for n in reversed(range(len(masks))):  # the surest lies above the others
                colours[masks[n] > 0] = one["labels"][n] + 1
            picture = label_map(colours, over=image[0])
        marks = [
            Mark(box, str(label))
            for box, label in zip(one["boxes"], one["labels"], strict=True)
        ]
        truth = " ".join(str(digit) for digit in sorted(labels.tolist()))
        cells.append(Picture(f"truth: {truth}", picture, marks))
    what = "masks, boxes and classes" if "masks" in found[0] else "boxes and classes"
    which = (
        "of the training scenes, composed of handwritten digits,"
        if by_heart
        else "scenes composed of handwritten digits of the test part,"
    )
    svg = pictures_svg(
        f"{slug.rpartition('/')[2]}-predictions",
        f"{name} on scenes it has {'learnt by heart' if by_heart else 'not seen'}",
        f"{len(found)} {which} with the {what} found with a score above one half.",
        cells,
        columns=3,
    )
    return {"predictions": svg}


def labelled_scenes(slug: str, name: str) -> dict[str, str]:
    """Four unseen scenes, the class of every pixel, and the class that the network of the first seed gives it."""
    from cnn_lab.scene_trial import trial_scenes, unpacked

    arm = _arm(slug)
    if arm is None:
        return {}
    scenes = trial_scenes(4, 0, "test")
    predicted = unpacked(arm["first"], *scenes.masks.shape)
    rows = [
        [Picture("image", image[0]) for image in scenes.images],
        [Picture("truth", label_map(mask)) for mask in scenes.masks],
        [Picture("prediction", label_map(mask)) for mask in predicted],
    ]
    svg = pictures_svg(
        f"{slug.rpartition('/')[2]}-predictions",
        "Four unseen scenes, their true classes and those predicted",
        "Three rows of four pictures: scenes of handwritten digits, the class of every pixel in one colour per digit, "
        f"and the classes that a trained {name} predicts.",
        [picture for row in rows for picture in row],
        columns=4,
        classes=DIGITS,
    )
    return {"predictions": svg}


def _arm(slug: str) -> dict[str, Any] | None:
    """The one arm of a page's recorded trial."""
    trial = load(slug).get("measured", {}).get("trial")
    if trial is None:
        return None
    (arm,) = trial["result"]["arms"].values()
    return dict(arm)
