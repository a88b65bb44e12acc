# --8<-- [start:usage]
"""Small files of the true form of each data set, with noise for images."""

import json
import pickle
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import scipy.io
import torch
from PIL import Image

draw = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return draw.integers(256, size=shape, dtype=np.uint8)


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def mnist(raw: Path) -> None:
    """Sizes as big-endian numbers, then bytes; gzipped where they are fetched."""
    raw.mkdir(parents=True)
    for part, count in (("train", 20), ("t10k", 10)):
        images = struct.pack(">4i", 0x803, count, 28, 28) + noise(count, 784).tobytes()
        labels = struct.pack(">2i", 0x801, count) + bytes(i % 10 for i in range(count))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)


def cifar(root: Path) -> None:
    """Pickled rows of 1,024 red, then green, then blue pixels."""

    def pickled(path: Path, entry: dict) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pickle.dumps(entry, protocol=2))

    ten, hundred = root / "cifar-10-batches-py", root / "cifar-100-python"
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        pickled(ten / name, {"data": noise(10, 3072), "labels": list(range(10))})
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    pickled(ten / "batches.meta", {"label_names": names.split()})
    for name in ("train", "test"):
        entry = {"data": noise(100, 3072), "fine_labels": list(range(100))}
        entry["coarse_labels"] = [i // 5 for i in range(100)]
        pickled(hundred / name, entry)
    pickled(hundred / "meta", {"fine_label_names": [f"class {i}" for i in range(100)]})


def imagenet(root: Path) -> None:
    """As torchvision unpacks the archives: a folder for each class, and meta.bin."""
    words = {"n01440764": ("tench", "Tinca tinca")}
    words |= {"n02012849": ("crane",), "n03126707": ("crane",)}  # a bird, a machine
    for part in ("train", "val"):
        for wnid in words:
            save(root / part / wnid / f"{wnid}_1.JPEG", noise(30, 40, 3))
    torch.save((words, list(words)), root / "meta.bin")


def coco(root: Path) -> None:
    """One JSON file for a part; the third image shows none of the objects."""
    images = [
        {"id": i, "file_name": f"{i:012}.jpg", "width": 64, "height": 48}
        for i in (139, 285, 632)
    ]
    for image in images:
        save(root / "val2017" / image["file_name"], noise(48, 64, 3))
    dog = {"image_id": 139, "category_id": 18, "iscrowd": 0, "area": 200}
    dog |= {"bbox": [4, 8, 20, 10], "segmentation": [[4, 8, 24, 8, 24, 18, 4, 18]]}
    crowd = {"image_id": 285, "category_id": 1, "iscrowd": 1, "area": 96}
    run_lengths = {"size": [48, 64], "counts": [0, 96, 2976]}  # the first two columns
    crowd |= {"bbox": [0, 0, 2, 48], "segmentation": run_lengths}
    brush = {**dog, "image_id": 285, "category_id": 90}
    annotations = [{"id": i, **a} for i, a in enumerate((dog, crowd, brush), 1)]
    names = {1: "person", 18: "dog", 90: "toothbrush"}
    categories = [{"id": i, "name": name} for i, name in names.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations").mkdir()
    (root / "annotations/instances_val2017.json").write_text(json.dumps(content))


def voc(root: Path) -> None:
    """An XML file and, for some images, a palette image of classes."""
    item = "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin>"
    item += "<ymin>8</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"
    found = item.format("dog", 0, 1) + item.format("person", 1, 25)
    size = "<size><width>64</width><height>48</height><depth>3</depth></size>"
    for folder in ("Annotations", "ImageSets/Main", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    text = f"<annotation>{size}{found}</annotation>"
    (root / "Annotations/2007_000027.xml").write_text(text)
    for task in ("Main", "Segmentation"):
        (root / f"ImageSets/{task}/train.txt").write_text("2007_000027\n")
    save(root / "JPEGImages/2007_000027.jpg", noise(48, 64, 3))
    classes = np.zeros((48, 64), np.uint8)
    classes[7:41, :31], classes[8:40, 1:30] = 255, 12  # a dog and its border
    mask = Image.fromarray(classes)
    mask.putpalette(noise(768).tobytes())
    (root / "SegmentationClass").mkdir()
    mask.save(root / "SegmentationClass/2007_000027.png")


def celeba(root: Path) -> None:
    """Text files with a line for each image; two of them begin with count and names."""
    names = [f"{i:06}.jpg" for i in range(1, 7)]
    for name in names:
        save(root / "img_align_celeba" / name, noise(218, 178, 3))
    columns = {
        "list_eval_partition.txt": ("", list("001122")),
        "identity_CelebA.txt": ("", ["2880", "2937", "8692"] * 2),
        "list_attr_celeba.txt": ("Bald " * 40, [" -1  1" * 20] * 6),
        "list_bbox_celeba.txt": ("x_1 y_1 width height", ["95  71 226 313"] * 6),
        "list_landmarks_align_celeba.txt": ("x " * 10, [" 69 109" * 5] * 6),
    }
    for file, (head, values) in columns.items():
        lines = [f"{n} {v}" for n, v in zip(names, values, strict=True)]
        text = "\n".join([f"{len(names)}", head, *lines] if head else lines)
        (root / file).write_text(text + "\n")


def streets_and_scenes(root: Path) -> None:
    """Cityscapes' tree, and that of ADE20K's challenge."""
    ids = np.full((32, 64), 7, np.uint8)  # road
    ids[:4], ids[10:20, 10:20] = 3, 26  # out of the region of interest; a car
    place = "train/aachen/aachen_000000_000019"
    save(root / f"cityscapes/leftImg8bit/{place}_leftImg8bit.png", noise(32, 64, 3))
    save(root / f"cityscapes/gtFine/{place}_gtFine_labelIds.png", ids)
    instances = ids.astype(np.uint16)
    instances[ids == 26] = 26_000  # class, and number of the object
    save(root / f"cityscapes/gtFine/{place}_gtFine_instanceIds.png", instances)
    name = "training/ADE_train_00000001"
    save(root / f"ade20k/images/{name}.jpg", noise(48, 64, 3))
    labels = np.arange(48 * 64).reshape(48, 64) % 151  # 0: none of the 150 classes
    save(root / f"ade20k/annotations/{name}.png", labels.astype(np.uint8))


def svhn(root: Path) -> None:
    content = {"X": noise(32, 32, 3, 10), "y": np.arange(1, 11)[:, None]}
    scipy.io.savemat(root / "train_32x32.mat", content)


@contextmanager
def unchecked() -> Iterator[None]:
    """Lets loaders read files that have other checksums than the published ones."""
    loaders = "torchvision.datasets"
    with ExitStack() as stack:
        for name in ("celeba", "cifar", "svhn"):
            exists = mock.patch(f"{loaders}.{name}.check_integrity", there)
            stack.enter_context(exists)
        yield


def there(path: str, md5: str | None = None) -> bool:
    return Path(path).is_file()


data = Path("data")
mnist(data / "MNIST/raw")
mnist(data / "FashionMNIST/raw")
cifar(data)
imagenet(data / "imagenet")
coco(data / "coco")
voc(data / "VOCdevkit/VOC2012")
celeba(data / "celeba")
streets_and_scenes(data)
svhn(data)
# --8<-- [end:usage]
