"""Detection and segmentation: true COCO files, every refusal, and one run of each task."""

import json
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.ops import box_iou

from cnn_lab import checkpoint, coco, object_networks, objects
from cnn_lab.compress import compress
from cnn_lab.evaluate import load_network
from cnn_lab.export import export
from cnn_lab.fit import BadData, SingleProcess
from cnn_lab.object_networks import DETECTORS, SEGMENTERS
from cnn_lab.objects import DETECT, SEGMENT, Objects
from cnn_lab.predict import report
from cnn_lab.recipe import Recipe, Settings
from cnn_lab.report import report as report_measures
from cnn_lab.saved import LAST
from cnn_lab.scene_trial import trial_scenes
from cnn_lab.show import Lines, Silent
from cnn_lab.smaller import Method
from cnn_lab.stop import Refused, Stopped
from cnn_lab.train import rehearse, train

Json = dict[str, Any]
CPU = SingleProcess(torch.device("cpu"))
NAMES = ("small_retinanet(width=4)", "small_unet(width=2)")
HERE = Settings(workers=0)


def rle(mask: np.ndarray) -> Json:
    from pycocotools import mask as coco_mask

    code = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": code["size"], "counts": code["counts"].decode()}


def uncompressed(mask: np.ndarray) -> Json:
    flat = mask.T.flatten().astype(int)
    ends = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), len(flat)]
    runs = np.diff(ends).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


def scenes_as_coco(folder: Path, count: int = 10) -> Json:
    """Images of 96 x 72 pixels and their annotations, categories not in a row."""
    (folder / "images").mkdir(parents=True)
    scenes = trial_scenes(count, 3)
    content: Json = {"images": [], "annotations": [], "categories": []}
    for k in reversed(range(10)):
        content["categories"].append({"id": 7 * k + 1, "name": f"digit {k}"})
    for i in range(count):
        pixels = (scenes.images[i, 0, :72] * 255).byte().numpy()
        Image.fromarray(pixels).save(folder / f"images/{i}.png")
        content["images"].append(
            {"id": 100 + i, "file_name": f"{i}.png", "width": 96, "height": 72}
        )
        for label, mask in zip(scenes.labels[i], scenes.instances[i], strict=True):
            seen = mask[:72].numpy()
            if seen.sum() < 4:
                continue
            rows, columns = np.nonzero(seen)
            x, y = int(columns.min()), int(rows.min())
            number = len(content["annotations"]) + 1
            content["annotations"].append(
                {
                    "id": number,
                    "image_id": 100 + i,
                    "category_id": 7 * int(label) + 1,
                    "bbox": [x, y, int(columns.max()) + 1 - x, int(rows.max()) + 1 - y],
                    "iscrowd": 0,
                    "segmentation": rle(seen) if number % 2 else uncompressed(seen),
                }
            )
    written(folder, content)
    return content


def written(folder: Path, content: Json) -> Path:
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder, and a run of each task on it; no test may change it."""
    yard = tmp_path_factory.mktemp("objects")
    scenes_as_coco(yard / "coco")
    for task, network in zip((DETECT, SEGMENT), NAMES, strict=True):
        train(recipe(network, yard), yard / task.command, HERE, task=task)
    return yard


def recipe(network: str, yard: Path, **options: Any) -> Recipe:
    options = {"data": f"coco:{yard / 'coco'}", "size": 96, "epochs": 1, **options}
    return Recipe(network, batch_size=4, **options)


@pytest.fixture
def content(yard: Path, tmp_path: Path) -> Json:
    """The annotations, to be spoilt; images are those of the yard."""
    (tmp_path / "images").symlink_to(yard / "coco/images")
    return json.loads((yard / "coco/annotations.json").read_text())


# --- what is read --------------------------------------------------------------------


def test_boxes_are_those_of_the_file_and_go_with_the_image(yard: Path) -> None:
    part = coco.annotations(yard / "coco/annotations.json", masks=False)
    assert part.classes == [f"digit {k}" for k in range(10)]
    source = coco.CocoImages(part.images, 48, (0.0,), (1.0,), masks=False)
    images, targets = source.take(torch.arange(10), torch.empty(10, 0))
    scenes = trial_scenes(10, 3)
    assert images.shape == (10, 1, 48, 48)
    assert not images[:, :, 36:].any()  # 96 x 72 becomes 48 x 36
    expected = scenes.images[:, :, :72].reshape(10, 1, 36, 2, 48, 2).mean((3, 5))
    assert (images[:, :, :36] - expected).abs().max() < 0.15  # antialiased
    raw = json.loads((yard / "coco/annotations.json").read_text())["annotations"]
    for place, target in enumerate(targets):
        own = [a for a in raw if a["image_id"] == 100 + place]
        for box, label, a in zip(target["boxes"], target["labels"], own, strict=True):
            x, y, w, h = a["bbox"]
            assert box.tolist() == [x / 2, y / 2, (x + w) / 2, (y + h) / 2]
            assert int(label) == (a["category_id"] - 1) // 7


def test_masks_are_those_of_the_scenes_in_either_code(yard: Path) -> None:
    part = coco.annotations(yard / "coco/annotations.json", masks=True)
    source = coco.CocoImages(part.images, 96, (0.0,), (1.0,), masks=True)
    _, labels = source.take(torch.arange(10), torch.empty(10, 0))
    masks = trial_scenes(10, 3).masks
    differ = labels[:, :72] != masks[:, :72]  # digits of less than 4 pixels were left
    assert differ.sum() < 40
    assert (labels[:, 72:] == coco.IGNORED).all()


def test_run_lengths_and_polygons_are_as_pycocotools_says() -> None:
    from pycocotools import mask as coco_mask

    draw = np.random.default_rng(0)
    for share in (0.01, 0.5, 0.99):
        mask = draw.random((37, 53)) < share
        assert (coco.decoded(rle(mask), 53, 37).numpy() == mask).all()
        assert (coco.decoded(uncompressed(mask), 53, 37).numpy() == mask).all()
    large = np.zeros((700, 900), dtype=bool)
    large[100:600, 50:800] = True  # counts of several characters
    assert (coco.decoded(rle(large), 900, 700).numpy() == large).all()
    square = [
        [2.0, 3.0, 8.0, 3.0, 8.0, 9.0, 2.0, 9.0],
        [10.0, 0.0, 14.0, 0.0, 14.0, 5.0],
    ]
    with warnings.catch_warnings(action="ignore"):  # of NumPy 2
        code = coco_mask.merge(coco_mask.frPyObjects(square, 12, 20))
        expected = coco_mask.decode(code)
    assert (coco.decoded(square, 20, 12).numpy() == expected).all()
    assert expected.sum() > 36


def test_an_image_without_objects_is_learnt_from(content: Json, tmp_path: Path) -> None:
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 104]
    part = coco.annotations(written(tmp_path, content), masks=False)
    empty = next(i for i in part.images if i.id == 104)
    assert empty.regions == []
    source = coco.CocoImages([empty] * 4, 96, (0.0,) * 3, (1.0,) * 3, masks=False)
    x, y = source.take(torch.arange(4), torch.empty(4, 0))
    for make in object_networks.SMALL["detect"]:
        model = object_networks.build(f"{make.__name__}(width=8)", 10)
        assert object_networks.kind_of(model).loss(model, x, y).isfinite()


def test_crowds_are_not_learnt_from_and_not_counted(
    content: Json, tmp_path: Path
) -> None:
    first = content["annotations"][0]
    first["iscrowd"] = 1
    path = written(tmp_path, content)
    part = coco.annotations(path, masks=False)
    assert part.notes == [
        f"{path}: 1 annotation of crowds not learnt from, and not counted in tests (1)"
    ]
    image = next(i for i in part.images if i.id == first["image_id"])
    options = ([image], 96, (0.0,), (1.0,))
    learnt = coco.CocoImages(*options, masks=False).take(
        torch.tensor([0]), torch.empty(1, 0)
    )
    tested = coco.CocoImages(*options, masks=False, test=True)
    truth = tested.take(torch.tensor([0]), torch.empty(1, 0))[1][0]
    assert len(truth["boxes"]) == len(learnt[1][0]["boxes"]) + 1
    assert truth["iscrowd"].tolist() == [1] + [0] * (len(truth["boxes"]) - 1)
    # All but the crowd found, and one more box inside it: perfect all the same.
    measure = objects._Boxes()
    inside = truth["boxes"][:1] + torch.tensor([1.0, 1, -1, -1])
    found = {
        "boxes": torch.cat([truth["boxes"][1:], inside]),
        "labels": torch.cat([truth["labels"][1:], truth["labels"][:1]]),
        "scores": torch.ones(len(truth["boxes"])),
    }
    measure.add([found], [truth])
    assert measure.result()["ap"] == pytest.approx(1)
    counted = objects._Boxes()
    counted.add([found], [{k: v for k, v in truth.items() if k != "iscrowd"}])
    assert counted.result()["ap"] < 1
    masks = coco.annotations(path, masks=True).images[0]
    assert (coco.label_map(masks) == coco.IGNORED).sum() > 10


def test_a_box_beyond_its_image_is_clipped_one_without_area_left_out_and_both_told(
    content: Json, tmp_path: Path
) -> None:
    for place, box in enumerate(
        ([90, 10, 20, 20], [200, 10, 5, 5], [10, 10, 0, 5], [-5, -5, 8, 9])
    ):
        content["annotations"][place]["bbox"] = box
    path = written(tmp_path, content)
    part = coco.annotations(path, masks=False)
    regions = {r.id: r.box for i in part.images for r in i.regions}
    assert regions[1] == (90, 10, 96, 30)
    assert regions[4] == (0, 0, 3, 4)
    assert not {2, 3} & set(regions)
    assert part.notes == [
        f"{path}: 2 annotations with a box beyond their image clipped to it (1, 4)",
        f"{path}: 2 annotations without area inside their image left out (2, 3)",
    ]


def test_a_part_is_held_out_by_the_files_own_names_or_is_a_file_of_its_own(
    content: Json, tmp_path: Path
) -> None:
    path = written(tmp_path, content)
    train_part, test_part = coco.parts(str(tmp_path), masks=False)
    held = {i.name for i in test_part.images}
    assert len(held) + len(train_part.images) == 10
    content["images"] = [i for i in content["images"] if i["file_name"] != "9.png"]
    left = {i["id"] for i in content["images"]}
    content["annotations"] = [
        a for a in content["annotations"] if a["image_id"] in left
    ]
    written(tmp_path, content)
    again = {i.name for i in coco.parts(str(path), masks=False)[1].images}
    assert again == held - {"9.png"}
    for name in ("instances_train.json", "instances_val.json"):
        path.with_name(name).write_text(path.read_text())
    first, second = coco.parts(str(tmp_path), masks=False)
    assert (first.path.name, second.path.name) == (
        "instances_train.json",
        "instances_val.json",
    )
    pair = ",".join(
        str(tmp_path / n) for n in ("annotations.json", "instances_val.json")
    )
    assert coco.parts(pair, masks=False)[0].path == path


# --- what is refused -----------------------------------------------------------------


def change(kind: str, place: int = 0, **values: Any) -> Callable[[Json], None]:
    return lambda content: content[kind][place].update(values)


REFUSED: dict[str, tuple[Callable[[Json], Any], str]] = {
    "missing image": (
        change("images", file_name="gone.png"),
        "image 100: there is no file gone.png in",
    ),
    "no image name": (change("images", file_name=3), "image 100 has no file_name"),
    "image of another size": (
        change("images", width=97),
        r"image 100: .*0.png is 96 x 72 pixels as it is to be seen, annotated are 97 x 72",
    ),
    "no size": (
        change("images", height=None),
        r"image 100 \(0.png\): width and height",
    ),
    "image id twice": (change("images", 1, id=100), "image 100 is there twice"),
    "image file twice": (
        change("images", 1, file_name="0.png"),
        "image 101: the file 0.png is there twice",
    ),
    "no image id": (
        change("images", id="a"),
        "image number 0 has no whole number as id",
    ),
    "annotation id twice": (
        change("annotations", 1, id=1),
        "annotation 1 is there twice",
    ),
    "unknown image": (
        change("annotations", image_id=7),
        "annotation 1 is of image 7, which is not there",
    ),
    "unknown category": (
        change("annotations", category_id=5),
        "annotation 1 is of category 5, which is not there",
    ),
    "category twice": (change("categories", 1, id=64), "category 64 is there twice"),
    "category name twice": (
        change("categories", 1, name="digit 9"),
        "category 57: the name 'digit 9' is taken",
    ),
    "odd crowd": (change("annotations", iscrowd=2), "annotation 1 has iscrowd 2"),
    "no annotations": (
        lambda content: content["annotations"].clear(),
        "has no annotated object to learn from in",
    ),
    "no list": (lambda content: content.pop("categories"), "found no categories"),
    "no category": (
        lambda content: (content["categories"].clear(), content["annotations"].clear()),
        "there is no category",
    ),
}
BOXES = {
    "short box": (
        change("annotations", bbox=[1, 2, 3]),
        r"annotation 1 \(0.png\) has bbox",
    ),
    "no box": (change("annotations", bbox=None), r"has bbox null, expected x, y, w, h"),
    "box of NaN": (
        change("annotations", bbox=[1, 2, float("nan"), 3]),
        r"annotation 1 \(0.png\) has bbox \[1, 2, NaN, 3\]",
    ),
}
MASKS = {
    "no mask": (
        change("annotations", segmentation=[]),
        r"annotation 1 \(0.png\) has no mask",
    ),
    "two points": (
        change("annotations", segmentation=[[1, 2, 3, 4]]),
        r"annotation 1 \(0.png\) has a polygon \(number 0\) of 2 points",
    ),
    "odd count": (
        change("annotations", segmentation=[[1, 2, 3, 4, 5, 6, 7]]),
        "of an odd count: 7",
    ),
    "words": (change("annotations", segmentation=[["a"] * 6]), "no list of numbers"),
    "far away": (
        change("annotations", segmentation=[[0, 0, 1e9, 0, 0, 5]]),
        "far outside of the image",
    ),
    "broken text": (
        change("annotations", segmentation={"size": [72, 96], "counts": "PPQ"}),
        "run-length code",
    ),
    "text of nothing": (
        change("annotations", segmentation={"size": [72, 96], "counts": ""}),
        "a run-length code that cannot be read",
    ),
    "too few pixels": (
        change("annotations", segmentation={"size": [72, 96], "counts": [5, 5]}),
        "a run-length code of 10 pixels, the image has 6912",
    ),
    "negative": (
        change("annotations", segmentation={"size": [72, 96], "counts": [-1, 6913]}),
        "run-length code",
    ),
    "of another size": (
        change("annotations", segmentation={"size": [96, 72], "counts": [6912]}),
        r"has a mask of \[96, 72\], the image is \[72, 96\]",
    ),
}
EACH = [
    *((task, *case) for task in (DETECT, SEGMENT) for case in REFUSED.values()),
    *((DETECT, *case) for case in BOXES.values()),
    *((SEGMENT, *case) for case in MASKS.values()),
]


@pytest.mark.parametrize(("task", "spoil", "message"), EACH)
def test_what_cannot_be_used_is_told_with_file_and_id(
    task: Objects,
    spoil: Callable[[Json], Any],
    message: str,
    content: Json,
    tmp_path: Path,
) -> None:
    coco.parts(str(written(tmp_path, content)), task.masks)  # as it was, it is read
    spoil(content)
    path = written(tmp_path, content)
    with pytest.raises(BadData, match=message) as error:
        coco.parts(str(path), task.masks)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_each_task_refuses_only_what_it_reads(content: Json, tmp_path: Path) -> None:
    change("annotations", segmentation=[[1]])(content)
    coco.parts(str(written(tmp_path, content)), masks=False)
    change("annotations", segmentation=[[1, 1, 9, 1, 9, 9]], bbox=None)(content)
    coco.parts(str(written(tmp_path, content)), masks=True)


def test_what_is_no_coco_data_is_told(yard: Path, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(BadData, match=r"a\.json is no JSON file: Expecting"):
        coco.parts(str(tmp_path), masks=False)
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(BadData, match=r"found a\.json, b\.json; name two as coco:"):
        coco.parts(str(tmp_path), masks=False)
    with pytest.raises(BadData, match="is not in COCO's form"):
        coco.annotations(tmp_path / "b.json", masks=False)
    with pytest.raises(BadData, match="there is no folder and no JSON file"):
        coco.parts(str(tmp_path / "nowhere"), masks=False)
    whole = json.loads((yard / "coco/annotations.json").read_text())
    (tmp_path / "images").mkdir()
    for place in range(10):
        (tmp_path / f"images/{place}.png").write_text("no image")
    path = written(tmp_path, whole)
    told = (
        r"image 100: .*0\.png is not an image that can be read.*\(and 9 more of such\)"
    )
    with pytest.raises(BadData, match=told):
        coco.annotations(path, masks=False)


def test_a_refused_run_leaves_its_folder_as_it_was(
    yard: Path, content: Json, tmp_path: Path
) -> None:
    before = (yard / "detect" / LAST).read_bytes()
    with pytest.raises(Refused, match="holds a run already"):
        train(recipe(NAMES[0], yard), yard / "detect", HERE, task=DETECT)
    change("images", file_name="gone.png")(content)
    spoilt = recipe(NAMES[0], yard, data=f"coco:{written(tmp_path, content)}")
    with pytest.raises(BadData, match=r"gone\.png"):
        train(spoilt, tmp_path / "run", HERE, task=DETECT)
    assert not (tmp_path / "run").exists()
    assert (yard / "detect" / LAST).read_bytes() == before


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (
            DETECT,
            {"network": "small_unet"},
            "is none of detect's networks: .*small_fcos",
        ),
        (SEGMENT, {"network": "LeNet5"}, "is none of segment's networks"),
        (
            DETECT,
            {"network": "FeaturePyramidNetwork((1,))"},
            "cannot train|is not a net",
        ),
        (DETECT, {"data": "digits"}, "unknown data 'digits'; expected one of scenes"),
        (DETECT, {"data": "scenes:3"}, "expected scenes:COUNT with at least 8"),
        (
            DETECT,
            {"data": "scenes:8", "size": 64},
            "size is 64: scenes are of 96 pixels",
        ),
        (SEGMENT, {"network": NAMES[1], "size": 90}, "multiple of 16"),
    ],
)
def test_other_requests_are_refused_before_the_first_step(
    task: Objects, options: Json, message: str, yard: Path, tmp_path: Path
) -> None:
    asked = recipe(**{"network": NAMES[task.masks], "yard": yard, **options})
    with pytest.raises(ValueError, match=message):
        rehearse(asked, tmp_path / "run", HERE, task=task)


# --- runs ----------------------------------------------------------------------------


@pytest.mark.parametrize("task", [DETECT, SEGMENT])
def test_every_network_learns_and_is_tested(task: Objects, tmp_path: Path) -> None:
    tried = set()
    for make in object_networks.SMALL[task.command]:
        model = object_networks.build(f"{make.__name__}(width=4)", 11)
        tried.add(type(model))
        data = objects.open_objects("scenes:8", objects.Format(3, task.masks), Silent())
        x, y = data.train.take(torch.arange(2), torch.empty(2, 0))
        loss = task.loss(Recipe("x"))(model, x, y)
        loss.backward()
        assert all(p.grad is not None for p in model.parameters())
        measures = task.test(model, data.test, CPU)
        assert 0 <= measures[task.measure] <= 1
        assert model.training
    assert tried == set(SEGMENTERS if task.masks else DETECTORS)


def test_several_processes_are_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(Refused, match="cnn-lab detect runs in one process"):
        rehearse(Recipe(NAMES[0], data="scenes:8"), tmp_path / "run", HERE, task=DETECT)
    assert not (tmp_path / "run").exists()


def test_a_run_starts_from_weights_of_other_classes_and_says_what_begins_anew(
    yard: Path, tmp_path: Path
) -> None:
    for task, network in zip((DETECT, SEGMENT), NAMES, strict=True):
        source, plain = yard / task.command / LAST, tmp_path / "plain.pth"
        before = load_network(source)[0].state_dict()
        torch.save({f"module.{k}": v for k, v in before.items()}, plain)
        for classes, path in ((10 + task.masks, source), (3, source), (3, plain)):
            model = object_networks.build(network, classes)
            drawn = {k: v.clone() for k, v in model.state_dict().items()}
            note = objects.start_from(model, path, network)
            after, fits = model.state_dict(), 0
            for name, tensor in after.items():
                same = tensor.shape == before[name].shape
                fits += same
                assert torch.equal(tensor, before[name] if same else drawn[name]), name
            assert ("begin anew" in note) == (classes == 3) == (fits < len(after))
            assert ("module. taken off" in note) == (path.suffix == ".pth")
    with pytest.raises(ValueError, match=r"does not fit small_unet.*is needed, got"):
        objects.start_from(
            object_networks.build("small_unet", 11), source, "small_unet"
        )


def test_published_weights_of_torchvision_are_a_start_for_other_classes(
    tmp_path: Path,
) -> None:
    theirs = torchvision.models.detection.fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=91
    )
    torch.save(theirs.state_dict(), tmp_path / "fcos.pth")
    model = object_networks.build("fcos_resnet50_fpn", 4)
    note = objects.start_from(model, tmp_path / "fcos.pth", "fcos_resnet50_fpn")
    assert "cls_logits" in note
    for name, tensor in model.state_dict().items():
        if "cls_logits" not in name:
            assert torch.equal(tensor, theirs.state_dict()[name]), name


def test_a_last_batch_of_one_image_is_told_before_the_first_step(
    tmp_path: Path,
) -> None:
    asked = Recipe("small_pspnet(width=4)", data="scenes:33", batch_size=16)
    with pytest.raises(ValueError, match="one is left for the last batch: take anoth"):
        train(asked, tmp_path / "run", HERE, task=SEGMENT)
    assert not (tmp_path / "run").exists()


def test_a_perfect_answer_is_measured_as_one() -> None:
    scenes = trial_scenes(3, 0)
    boxes, labels = objects._Boxes(), objects._Labels()
    boxes.add(
        [{**t, "scores": torch.ones(len(t["labels"]))} for t in scenes.targets],
        scenes.targets,
    )
    assert boxes.result()["ap"] == pytest.approx(1)
    scores = torch.nn.functional.one_hot(scenes.masks, 11).permute(0, 3, 1, 2)
    labels.add(scores, scenes.masks)
    assert labels.result()["mean_iou"] == 1


def test_mean_iou_is_that_of_torchmetrics() -> None:
    from torchmetrics.classification import MulticlassJaccardIndex

    torch.manual_seed(0)
    scores, truth = torch.randn(3, 6, 9, 9), torch.randint(0, 6, (3, 9, 9))
    truth[0, :4] = coco.IGNORED
    ours, whole = (
        objects._Labels(),
        MulticlassJaccardIndex(6, ignore_index=coco.IGNORED),
    )
    for one, other in zip(scores, truth, strict=True):
        ours.add(one[None], other[None])
    expected = whole(scores.argmax(1), truth).item()
    assert ours.result()["mean_iou"] == pytest.approx(expected)


def test_a_run_that_goes_on_ends_with_the_same_bytes(
    yard: Path, tmp_path: Path
) -> None:
    class StopsAtOnce(Silent):
        def step(self, step: object) -> None:
            signal.raise_signal(signal.SIGINT)

    for task, network in zip((DETECT, SEGMENT), NAMES, strict=True):
        folder = tmp_path / task.command
        with pytest.raises(
            Stopped, match=f"go on with: cnn-lab {task.command} --resume"
        ):
            train(recipe(network, yard), folder, HERE, task=task, show=StopsAtOnce())
        train(recipe(network, yard), folder, HERE, task=task, resume=True)
        whole = (yard / task.command / LAST).read_bytes()
        assert (folder / LAST).read_bytes() == whole


@pytest.mark.slow
@pytest.mark.parametrize("command", ["detect", "segment"])
def test_a_run_that_is_killed_goes_on_to_the_same_bytes(
    command: str, yard: Path, tmp_path: Path
) -> None:
    options = [
        *(NAMES[command == "segment"], "--data", f"coco:{yard / 'coco'}"),
        *("--size", "96", "--epochs", "3", "--batch-size", "2", "--save-every", "1"),
        *("--workers", "1", "--weight-ema", "0.5", "--schedule", "one-cycle"),
    ]

    def begin(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "cnn_lab", command, *arguments])

    whole = begin(*options, "--out", str(tmp_path / "whole"))
    killed = begin(*options, "--out", str(tmp_path / "killed"))
    for _ in range(12_000):  # ten minutes
        if (tmp_path / "killed" / LAST).exists() or killed.poll() is not None:
            break
        time.sleep(0.05)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "result.json").exists()
    assert checkpoint.load(tmp_path / "killed" / LAST)["done"] > 0
    assert whole.wait() == 0
    assert begin("--resume", str(tmp_path / "killed")).wait() == 0
    files = ((tmp_path / name / LAST).read_bytes() for name in ("whole", "killed"))
    assert next(files) == next(files)


def test_going_on_with_other_annotations_is_refused(
    yard: Path, content: Json, tmp_path: Path
) -> None:
    place = written(tmp_path, content)
    asked = recipe(NAMES[0], yard, data=f"coco:{place}")
    state = checkpoint.load(yard / "detect" / LAST)
    state["recipe"] = asked.to_json()
    checkpoint.save(tmp_path / "run" / LAST, state)
    rehearse(asked, tmp_path / "run", HERE, resume=True, task=DETECT)
    content["annotations"][0]["bbox"][2] += 1
    written(tmp_path, content)
    with pytest.raises(Refused, match="as many images, but not the same"):
        rehearse(asked, tmp_path / "run", HERE, resume=True, task=DETECT)
    with pytest.raises(Refused, match="has changed since"):
        objects.evaluate(tmp_path / "run" / LAST)


def test_evaluating_without_an_object_is_refused(
    yard: Path, content: Json, tmp_path: Path
) -> None:
    path = written(tmp_path, content | {"annotations": []})
    with pytest.raises(BadData, match="has no annotated object to test with in 10"):
        objects.evaluate(yard / "detect" / LAST, f"coco:{path}", HERE)


def test_average_precision_is_that_of_pycocotools() -> None:
    from torchmetrics.detection import MeanAveragePrecision

    torch.manual_seed(0)
    measure = objects._Boxes()
    theirs = MeanAveragePrecision(class_metrics=True, backend="pycocotools")
    scenes = trial_scenes(20, 1)
    for target in scenes.targets:
        n = len(target["labels"])
        found = {
            "boxes": target["boxes"] + 4 * torch.rand(n, 4),
            "labels": torch.where(torch.rand(n) < 0.8, target["labels"], 3),
            "scores": torch.rand(n),
        }
        measure.add([found], [target])
        theirs.update([found], [target])
    ours, told = measure.result(), theirs.compute()
    # torchmetrics rounds pycocotools' levels of recall to single precision.
    for name, key in (("ap", "map"), ("ap50", "map_50"), ("ap75", "map_75")):
        assert ours[name] == pytest.approx(told[key].item(), abs=2e-3)
    pairs = zip(told["classes"].tolist(), told["map_per_class"].tolist(), strict=True)
    wanted = {k: v for k, v in pairs if v >= 0}
    assert ours["each"] == pytest.approx(wanted, abs=5e-3)


def test_evaluating_tells_what_the_run_told(
    yard: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in (DETECT, SEGMENT):
        folder = yard / task.command
        told = json.loads((folder / "result.json").read_text())
        found = objects.evaluate(folder / LAST, settings=HERE)
        assert found[task.measure] == told[task.measure]
        assert found["images"] == told["images"]
        other = objects.evaluate(
            folder / LAST, f"coco:{yard / 'coco/annotations.json'}", HERE
        )
        assert other["images"] == 10
        report_measures(folder / LAST, "", HERE, None, None)
        assert f"{found[task.measure]:.2%}" in capsys.readouterr().out
        with pytest.raises(ValueError, match="is of classifiers alone"):
            report_measures(folder / LAST, "", HERE, None, Path("x.png"))


def test_predictions_are_drawn_in_copies(
    yard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = yard / "coco/images/0.png"
    before = image.read_bytes()
    for task in (DETECT, SEGMENT):
        with pytest.raises(Refused, match="1 of 2 images could not be read"):
            report(
                yard / task.command / LAST,
                [image, tmp_path / "none.png"],
                5,
                None,
                out=tmp_path / task.command,
            )
        with Image.open(tmp_path / task.command / "0.png") as picture:
            assert (picture.mode, picture.size) == ("RGB", (96, 72))
        assert f"({tmp_path / task.command / '0.png'})" in capsys.readouterr().out
    with pytest.raises(Refused, match="a picture could be written over the image"):
        report(yard / "detect" / LAST, [image], 5, None, out=image.parent)
    assert image.read_bytes() == before


def test_boxes_are_told_in_pixels_of_the_image(
    yard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, state = load_network(yard / "detect" / LAST)
    found = {
        "boxes": torch.tensor([[0.0, 0, 48, 36], [1, 1, 2, 2]]),
        "scores": torch.tensor([0.9, 0.1]),
        "labels": torch.tensor([3, 4]),
    }
    kind = object_networks.Kind(lambda *_: torch.zeros(1), lambda *_: [found])
    monkeypatch.setitem(object_networks.DETECTORS, type(model), kind)
    state["size"] = 48  # the image, of 96 x 72 pixels, is given as 48 x 36
    model.forward = lambda x: x  # type: ignore[method-assign]
    _, told = objects._predicted(model, state, str(yard / "coco/images/0.png"))
    assert told["objects"] == [
        {"name": "digit 3", "score": pytest.approx(0.9), "box": [0, 0, 96, 72]}
    ]


def test_the_surest_of_two_boxes_is_told_first_and_drawn_on_top(
    yard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, state = load_network(yard / "detect" / LAST)
    found = {
        "boxes": torch.tensor([[40.0, 30, 80, 60]]).repeat(3, 1),
        "scores": torch.tensor([0.6, 0.9, 0.7]),
        "labels": torch.tensor([3, 4, 5]),
    }
    kind = object_networks.Kind(lambda *_: torch.zeros(1), lambda *_: [found])
    monkeypatch.setitem(object_networks.DETECTORS, type(model), kind)
    model.forward = lambda x: x  # type: ignore[method-assign]
    drawn, told = objects._predicted(model, state, str(yard / "coco/images/0.png"))
    assert [t["name"] for t in told["objects"]] == ["digit 4", "digit 5", "digit 3"]
    assert objects.COLOURS[4] == "magenta"
    assert drawn[:, 59, 60].tolist() == [255, 0, 255]  # on the lower side


def learnt(model: torch.nn.Module, x: torch.Tensor, y: Any) -> Any:
    """What a network says of a batch that it has seen sixty times."""
    kind, optimizer = (
        object_networks.kind_of(model),
        torch.optim.AdamW(model.parameters(), 3e-3),
    )
    for _ in range(60):
        loss = kind.loss(model, x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.optim.swa_utils.update_bn([x] * 3, model)
    with torch.no_grad():
        return kind.answer(model.eval()(x), x)


@pytest.mark.parametrize("name", [m.__name__ for m in object_networks.SMALL["detect"]])
def test_every_detector_learns_from_boxes_in_pixels_and_finds_such(name: str) -> None:
    torch.manual_seed(0)
    model = object_networks.build(f"{name}(width=8)", 3)
    x = torch.zeros(2, 3, 96, 96)
    x[:, :, 30:60, 20:70] = 1  # one object in each, at the same place
    box = torch.tensor([[20.0, 30, 70, 60]])
    y = [{"boxes": box, "labels": torch.tensor([1])}] * 2
    found = learnt(model, x, y)
    assert len(found) == 2
    best = found[0]["scores"].argmax()
    assert found[0]["labels"][best] == 1
    assert float(box_iou(found[0]["boxes"][best][None], box)) > 0.5


@pytest.mark.parametrize("name", [m.__name__ for m in object_networks.SMALL["segment"]])
def test_every_segmenter_learns_pixels_and_labels_all_of_them(name: str) -> None:
    torch.manual_seed(0)
    model = object_networks.build(f"{name}(width=8)", 3)
    x = torch.zeros(2, 3, 64, 96)
    x[:, :, 16:48, 32:64] = 1
    y = x[:, 0].long()
    y[:, :8] = coco.IGNORED
    scores = learnt(model, x, y)
    assert scores.shape == (2, 3, 64, 96)
    seen = y != coco.IGNORED
    assert float((scores.argmax(1) == y)[seen].double().mean()) > 0.9
    nothing = torch.full_like(y, coco.IGNORED)
    assert object_networks.kind_of(model).loss(model, x, nothing).item() == 0


@pytest.mark.slow
def test_what_exports_computes_the_same(yard: Path, tmp_path: Path) -> None:
    for task in (DETECT, SEGMENT):
        result = export(yard / task.command / LAST, tmp_path / f"{task.command}.onnx")
        assert result["difference"] < 1e-4
    for name in ("small_yolov8", "small_detr", "small_efficientdet", "small_segformer"):
        raw = objects.Raw(object_networks.build(f"{name}(width=8)", 3)).eval()
        x = torch.rand(2, 3, 64, 64)
        told = zip(raw.outputs, raw(x), strict=True)
        assert all(part.shape[0] == 2 for _, part in told)
    with pytest.raises(Refused, match="a FasterRCNN cannot be exported"):
        objects.Raw(object_networks.build("small_faster_rcnn(width=4)", 3)).outputs  # noqa: B018


def test_compress_is_for_classifiers_and_says_so(yard: Path, tmp_path: Path) -> None:
    for task in (DETECT, SEGMENT):
        with pytest.raises(Refused, match=f"classifiers, .* is of {task.command}"):
            compress(yard / task.command / LAST, Method.fold, tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_it_is_told_what_there_is_to_learn_from(
    yard: Path, content: Json, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content["annotations"][0]["iscrowd"] = 1
    asked = recipe(NAMES[0], yard, data=f"coco:{written(tmp_path, content)}")
    train(asked, tmp_path / "run", HERE, task=DETECT, show=Lines())
    out = capsys.readouterr().out
    assert "1 annotation of crowds" in out
    assert re.search(r"10 classes, \d photos to learn from, \d to test", out)
    assert re.search(r"epoch 1/1: loss \d.\d{4}, AP \d+\.\d\d%", out)
