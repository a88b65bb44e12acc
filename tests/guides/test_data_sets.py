"""Every loader reads small files of the true form, and does what the guide says of it; copies between the parts of the data used here are a record."""

import inspect
import io
import json
import os
import pickle
import runpy
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from cnn_lab.data import digits
from cnn_site import ROOT

PROGRAM = ROOT / "snippets/guides/data_sets.py"
Json = dict[str, Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `data` as the program of the page writes it."""
    folder = tmp_path_factory.mktemp("small")
    before = Path.cwd()
    try:
        os.chdir(folder)
        runpy.run_path(str(PROGRAM))
    finally:
        os.chdir(before)
    return folder / "data"


def there(path: str, md5: str | None = None) -> bool:
    return Path(path).is_file()


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files have other checksums."""
    for name in ("celeba", "cifar", "imagenet", "svhn"):
        monkeypatch.setattr(f"torchvision.datasets.{name}.check_integrity", there)


def coco(files: Path) -> datasets.CocoDetection:
    with redirect_stdout(io.StringIO()):
        return datasets.CocoDetection(
            files / "coco/val2017",
            str(files / "coco/annotations/instances_val2017.json"),
        )


FETCHED = {
    "MNIST": True,
    "FashionMNIST": True,
    "CIFAR10": True,
    "CIFAR100": True,
    "VOCDetection": True,
    "VOCSegmentation": True,
    "CelebA": True,
    "SVHN": True,
    "ImageNet": False,
    "CocoDetection": False,
    "Cityscapes": False,
}


@pytest.mark.parametrize(("name", "fetched"), FETCHED.items())
def test_the_page_says_rightly_which_loaders_fetch(name: str, fetched: bool) -> None:
    loader = getattr(datasets, name)
    known = set(inspect.signature(loader).parameters)
    if "kwargs" in known:
        known |= set(inspect.signature(loader.__mro__[1]).parameters)
    assert ("download" in known) == fetched


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize("loader", [datasets.MNIST, datasets.FashionMNIST])
def test_idx_files_are_read_in_both_parts(files: Path, loader: Any) -> None:
    for train, count in ((True, 20), (False, 10)):
        part = loader(files, train=train)
        assert part.data.shape == (count, 28, 28)
        assert part.data.dtype == torch.uint8
        assert part.targets.tolist() == [i % 10 for i in range(count)]
        assert isinstance(part[0][1], int)
        assert part[0][0].mode == "L"


def test_idx_files_are_not_checked_once_they_are_unpacked(
    files: Path, tmp_path: Path
) -> None:
    shutil.copytree(files / "FashionMNIST", tmp_path / "MNIST")
    wrong = datasets.MNIST(tmp_path)
    assert torch.equal(wrong.data, datasets.FashionMNIST(files).data)
    assert wrong.classes[0] == "0 - zero"


def test_a_changed_byte_of_cifar_is_refused_in_the_words_of_a_missing_file(
    files: Path, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError) as missing:
        datasets.CIFAR10(tmp_path)
    with pytest.raises(RuntimeError) as changed:
        datasets.CIFAR10(files)  # which has other checksums
    assert str(missing.value) == str(changed.value)


@pytest.mark.usefixtures("unchecked")
def test_rows_of_cifar_are_planes_of_red_green_and_blue(files: Path) -> None:
    part = datasets.CIFAR10(files)
    with (files / "cifar-10-batches-py/data_batch_1").open("rb") as file:
        row = pickle.load(file, encoding="latin1")["data"][0]
    image = np.asarray(part[0][0])
    assert image.shape == (32, 32, 3)
    assert (image[..., 0].ravel() == row[:1024]).all()
    assert (image[..., 2].ravel() == row[2048:]).all()
    assert len(part) == 50
    assert len(datasets.CIFAR10(files, train=False)) == 10


@pytest.mark.usefixtures("unchecked")
def test_cifar_100_has_coarse_labels_that_the_loader_leaves_out(files: Path) -> None:
    part = datasets.CIFAR100(files, train=False)
    with (files / "cifar-100-python/test").open("rb") as file:
        entry = pickle.load(file, encoding="latin1")
    assert part.targets == entry["fine_labels"] != entry["coarse_labels"]
    assert not [name for name in vars(part) if "coarse" in name]


def archive(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


def jpeg(colour: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (colour, 0, 0)).save(file, "JPEG")
    return file.getvalue()


def imagenet_archives(root: Path) -> None:
    """Three archives as image-net.org has them: two classes, whose ids are not in the order of their names."""
    kinds = [("ILSVRC2012_ID", "i4"), ("WNID", "O"), ("words", "O"), ("gloss", "O")]
    synsets = np.zeros((3,), [*kinds, ("num_children", "i4")])
    synsets[0] = (1, "n02085620", "Chihuahua", "a dog", 0)
    synsets[1] = (2, "n01440764", "tench, Tinca tinca", "a fish", 0)
    synsets[2] = (1001, "n00001740", "entity", "not a class", 2)
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": synsets})
    kit = "ILSVRC2012_devkit_t12/data"
    archive(
        root / "ILSVRC2012_devkit_t12.tar.gz",
        {
            f"{kit}/meta.mat": meta.getvalue(),
            f"{kit}/ILSVRC2012_validation_ground_truth.txt": b"2\n1\n2\n",
        },
    )
    inner = {}
    for wnid in ("n02085620", "n01440764"):
        archive(root / f"{wnid}.tar", {f"{wnid}_1.JPEG": jpeg(200)})
        inner[f"{wnid}.tar"] = (root / f"{wnid}.tar").read_bytes()
        (root / f"{wnid}.tar").unlink()
    archive(root / "ILSVRC2012_img_train.tar", inner)
    photos = {f"ILSVRC2012_val_{i:08}.JPEG": jpeg(50 * i) for i in (1, 2, 3)}
    archive(root / "ILSVRC2012_img_val.tar", photos)


@pytest.mark.usefixtures("unchecked")
def test_imagenet_is_unpacked_from_its_archives_and_its_labels_follow_the_wordnet_ids(
    tmp_path: Path,
) -> None:
    imagenet_archives(tmp_path)
    val = datasets.ImageNet(tmp_path, split="val")
    assert val.wnids == ["n01440764", "n02085620"]  # sorted: not the kit's ids
    assert val.classes == [("tench", "Tinca tinca"), ("Chihuahua",)]
    names = [(Path(path).stem[-1], label) for path, label in val.samples]
    assert names == [("1", 0), ("3", 0), ("2", 1)]
    assert len(datasets.ImageNet(tmp_path, split="train")) == 2


def test_imagenet_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="devkit_t12"):
        datasets.ImageNet(tmp_path)


def test_one_name_of_two_classes_leads_to_the_last(files: Path) -> None:
    part = datasets.ImageNet(files / "imagenet", split="val")
    assert part.classes[1] == part.classes[2] == ("crane",)
    assert part.class_to_idx["crane"] == 2


@pytest.mark.usefixtures("unchecked")
def test_attributes_of_celeba_are_0_or_1_and_its_boxes_are_of_other_images(
    files: Path,
) -> None:
    part = datasets.CelebA(files, split="test", target_type=["attr", "bbox"])
    image, (attributes, box) = part[0]
    assert len(part) == 2
    assert attributes.tolist() == [0, 1] * 20  # -1 and 1 in the file
    image.load()  # opened, and not read before
    assert image.size == (178, 218)
    assert box[0] + box[2] > image.size[0]
    image, nothing = datasets.CelebA(files, target_type=[])[0]
    image.load()
    assert nothing is None


# ---------------------------------------------------------------- boxes and pixels


def test_boxes_of_coco_have_width_and_height_and_its_ids_gaps(files: Path) -> None:
    target = coco(files)[0][1]
    assert target[0]["bbox"] == [4, 8, 20, 10]
    assert target[0]["category_id"] == 18
    whole = datasets.wrap_dataset_for_transforms_v2(coco(files))[0][1]
    assert whole["boxes"].tolist() == [[4, 8, 24, 18]]
    assert whole["labels"].tolist() == [18]


def test_an_image_without_annotations_gets_no_boxes_rather_than_none(
    files: Path,
) -> None:
    plain = coco(files)
    assert plain[2][1] == []
    wrapped = datasets.wrap_dataset_for_transforms_v2(plain)
    assert wrapped[2][1] == {"image_id": 632}


def test_a_crowd_is_a_box_like_any_other(files: Path) -> None:
    keys = ["boxes", "iscrowd"]
    wrapped = datasets.wrap_dataset_for_transforms_v2(coco(files), target_keys=keys)
    target = wrapped[1][1]
    assert target["iscrowd"] == [1, 0]
    assert len(target["boxes"]) == 2
    assert target["boxes"][0].tolist() == [0, 0, 2, 48]


def test_a_target_of_voc_is_made_of_text(files: Path) -> None:
    part = datasets.VOCDetection(files, image_set="train")
    (dog, person) = part[0][1]["annotation"]["object"]
    assert [dog["difficult"], person["difficult"]] == ["0", "1"]
    assert all(map(bool, ["0", "1"]))  # so that a test for truth drops both
    assert dog["bndbox"] == {"xmin": "1", "ymin": "8", "xmax": "30", "ymax": "40"}
    wrapped = datasets.wrap_dataset_for_transforms_v2(part)[0][1]
    assert wrapped["labels"].tolist() == [12, 15]  # difficult ones too
    assert wrapped["boxes"][0].tolist() == [1, 8, 30, 40]  # counted from 1, as there


def test_a_mask_of_voc_has_a_border_of_255(files: Path) -> None:
    mask = datasets.VOCSegmentation(files, image_set="train")[0][1]
    assert mask.mode == "P"
    assert np.unique(np.asarray(mask)).tolist() == [0, 12, 255]
    as_colours = np.asarray(mask.convert("RGB"))
    assert as_colours.shape == (48, 64, 3)  # what a convert() makes of classes


def test_voc_unpacks_again_whenever_it_may_fetch(files: Path) -> None:
    with mock.patch("torchvision.datasets.voc.download_and_extract_archive") as unpack:
        for _ in range(2):
            datasets.VOCDetection(files, image_set="train", download=True)
        datasets.VOCDetection(files, image_set="train")
    assert unpack.call_count == 2


def test_cityscapes_gives_instances_unless_asked_and_ids_that_are_no_labels(
    files: Path,
) -> None:
    part = datasets.Cityscapes(files / "cityscapes")
    assert part.split == "train"
    assert np.asarray(part[0][1]).max() == 26_000
    ids = datasets.Cityscapes(files / "cityscapes", target_type="semantic")[0][1]
    assert np.unique(np.asarray(ids)).tolist() == [3, 7, 26]
    assert {c.id for c in part.classes} == {*range(34), -1}
    counted = {c.train_id for c in part.classes} - {-1, 255}
    assert counted == set(range(19))
    assert {c.id: c.train_id for c in part.classes}[26] == 13


def test_the_order_of_cityscapes_is_that_of_the_file_system(
    files: Path, tmp_path: Path
) -> None:
    root = tmp_path / "cityscapes"
    shutil.copytree(files / "cityscapes", root)
    for kind in ("leftImg8bit", "gtFine"):
        shutil.copytree(root / kind / "train/aachen", root / kind / "train/zurich")
    listed = os.listdir
    orders = []
    for reverse in (False, True):
        with mock.patch(
            "os.listdir", lambda p, r=reverse: sorted(listed(p), reverse=r)
        ):
            part = datasets.Cityscapes(root)
        orders.append([Path(path).parent.name for path in part.images])
    assert orders == [["aachen", "zurich"], ["zurich", "aachen"]]


@pytest.mark.usefixtures("unchecked")
def test_the_zero_of_svhn_is_10_in_the_file_and_0_in_the_loader(files: Path) -> None:
    part = datasets.SVHN(files, split="train")
    written = scipy.io.loadmat(files / "train_32x32.mat")["y"].ravel()
    assert written.tolist() == list(range(1, 11))
    assert part.labels.tolist() == [*range(1, 10), 0]
    assert not hasattr(part, "targets")
    assert part[0][0].size == (32, 32)


# ---------------------------------------------------------------- numbers


def test_record_what_names_and_ids_hide(evidence) -> None:
    import timm

    info = Path(timm.__file__).parent / "data/_info"
    names = dict(
        line.split("\t")
        for line in (info / "imagenet_synset_to_lemma.txt").read_text().splitlines()
    )
    wnids = (info / "imagenet_synsets.txt").read_text().split()
    used = Counter(name for wnid in wnids for name in names[wnid].split(", "))
    kept = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    train, test = digits("train"), digits("test")
    evidence.computed(
        "facts",
        {
            "imagenet": {
                "name": "ImageNet",
                "classes": len(wnids),
                "names_of_two": sum(count > 1 for count in used.values()),
                "crane_bird": wnids.index("n02012849"),
                "crane_machine": wnids.index("n03126707"),
            },
            "coco": {
                "name": "COCO",
                "largest_id": len(kept) - 1,
                "classes": len([k for k in kept if k != "N/A"]) - 1,
            },
            "digits": {
                "name": "Digits of scikit-learn",
                "train": len(train[1]),
                "test": len(test[1]),
                "size": train[0].shape[-1],
            },
        },
    )


def garments(part: str) -> tuple[Tensor, Tensor]:
    data = datasets.FashionMNIST("data", train=part == "train")
    return data.data, data.targets


def scans(part: str) -> tuple[Tensor, Tensor]:
    images, labels = digits(part)  # type: ignore[arg-type]
    return (images * 16).round(), labels


SETS: dict[str, tuple[str, Callable[[str], tuple[Tensor, Tensor]], int]] = {
    "fashion": ("Fashion-MNIST", garments, 255),
    "digits": ("Digits of scikit-learn", scans, 16),
}


def copies(names: list[str]) -> Json:
    """How near the nearest training image of each test image is, and whether it is of the same class."""
    arms: Json = {}
    for key in names:
        name, read, largest = SETS[key]
        (images, labels), (tests, truth) = read("train"), read("test")
        pool, wanted = (x.flatten(1).double() for x in (images, tests))
        nearest, distances = [], []
        for some in wanted.split(250):  # whole numbers below 2^53: exact
            squares = (some**2).sum(1)[:, None] + (pool**2).sum(1) - 2 * some @ pool.T
            least, index = squares.min(1)
            nearest.append(index)
            distances.append(least)
        same = labels[torch.cat(nearest)] == truth
        per_pixel = torch.cat(distances) / pool.shape[1] / largest**2
        near = per_pixel < 0.05**2
        arms[key] = {
            "name": name,
            "train": len(labels),
            "test": len(truth),
            "same_pixels": int((torch.cat(distances) == 0).sum()),
            "near": int(near.sum()),
            "near_other_class": int((near & ~same).sum()),
            "right": float(same.double().mean()),
        }
    return {"arms": arms}


@pytest.mark.record
def test_record_how_much_of_the_test_parts_is_copied(evidence) -> None:
    arguments = {"names": list(SETS)}
    result = evidence.measured("copies", arguments=arguments, run=copies)
    assert json.dumps(result)
    assert all(arm["same_pixels"] == 0 for arm in result["arms"].values())
    assert all(0.8 < arm["right"] < 1 for arm in result["arms"].values())


def test_the_digits_of_the_record_are_those_of_today() -> None:
    from cnn_site.evidence import load

    result = load("guides/data-sets")["measured"]["copies"]["result"]["arms"]
    assert copies(["digits"])["arms"]["digits"] == result["digits"]


def test_a_copy_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.tensor([[[0.0, 255.0]], [[255.0, 0.0]], [[10.0, 250.0]]])
    parts = {
        "train": (images[:2], torch.tensor([0, 1])),
        "test": (images[[0, 2]], torch.tensor([0, 1])),
    }
    monkeypatch.setitem(SETS, "planted", ("Planted", parts.__getitem__, 255))
    arm = copies(["planted"])["arms"]["planted"]
    assert arm["same_pixels"] == 1
    assert arm["near"] == 2
    assert arm["near_other_class"] == 1
    assert arm["right"] == 0.5
