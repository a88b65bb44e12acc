"""Data sets by name, from small files of the true format that the tests write."""

import hashlib
import os
import pickle
import shutil
import socket
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets, transforms

from cnn_lab.augment import AUGMENTATIONS
from cnn_lab.cli import main
from cnn_lab.data import digits
from cnn_lab.fit import BadData
from cnn_lab.photos import InputFormat, Photos
from cnn_lab.sources import LOADERS, DataSet, open_data

COLOURS, SPREADS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
PLAIN = InputFormat(3, 32, (0.0,) * 3, (1.0,) * 3)


def taken(source: Any, draws: int = 0) -> tuple[Tensor, Tensor]:
    return source.take(torch.arange(len(source)), torch.zeros(len(source), draws))


def as_bytes(images: Tensor, data: DataSet) -> np.ndarray:
    """The images (N, C, H, W) as they were before mean and deviation."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (data.mean, data.std))
    return (images * std + mean).mul(255).round().byte().numpy()


# --- torchvision's loaders -----------------------------------------------------------


def scans(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (n, 28, 28), np.uint8), np.arange(n, dtype=np.uint8)


def write_idx(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Files as MNIST's: a header of big-endian numbers, then bytes."""
    folder.mkdir(parents=True)
    parts = {"train": scans(10, 0), "t10k": scans(6, 1)}
    for part, (images, labels) in parts.items():
        head = struct.pack(">IIII", 2051, len(images), 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = struct.pack(">II", 2049, len(labels))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
    return parts


def write_cifar(
    root: Path, loader: Any, names: int, monkeypatch: pytest.MonkeyPatch
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Files as CIFAR's: pickled rows of red, green and blue planes."""
    folder, draw = root / loader.base_folder, np.random.default_rng(0)
    folder.mkdir(parents=True)
    kind = "labels" if names == 10 else "fine_labels"
    parts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for split in ("train", "test"):
        files, images, labels = [], [], []
        for name, _ in getattr(loader, f"{split}_list"):
            rows = draw.integers(0, 256, (4, 3072), np.uint8)
            own = draw.integers(0, names, 4).tolist()
            content = pickle.dumps({"data": rows, kind: own}, protocol=2)
            (folder / name).write_bytes(content)
            files.append([name, hashlib.md5(content).hexdigest()])
            images.append(rows.reshape(-1, 3, 32, 32))
            labels += own
        monkeypatch.setattr(loader, f"{split}_list", files)
        parts[split] = np.concatenate(images), np.array(labels)
    words = [f"class {n}" for n in range(names)]
    content = pickle.dumps({loader.meta["key"]: words}, protocol=2)
    (folder / loader.meta["filename"]).write_bytes(content)
    meta = {**loader.meta, "md5": hashlib.md5(content).hexdigest()}
    monkeypatch.setattr(loader, "meta", meta)
    return parts


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_files_of_mnists_format_are_read(name: str, tmp_path: Path) -> None:
    parts = write_idx(tmp_path / LOADERS[name][1])
    data = open_data(name, InputFormat(1), root=tmp_path)
    images = parts["train"][0]
    for source, (pictures, truth) in zip(
        (data.train, data.test), parts.values(), strict=True
    ):
        out, targets = taken(source)
        assert out.shape == (len(pictures), 1, 28, 28)
        assert out.dtype == torch.float32
        assert np.array_equal(as_bytes(out, data)[:, 0], pictures)
        assert targets.tolist() == truth.tolist()
    assert data.size == 28
    assert len(data.classes) == 10
    assert data.mean == pytest.approx([images.mean() / 255])
    assert data.std == pytest.approx([images.std() / 255])
    out, _ = taken(data.train)
    assert out.mean().item() == pytest.approx(0, abs=1e-5)
    assert out.std(correction=0).item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_files_of_cifars_format_are_read(
    name: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = write_cifar(tmp_path, LOADERS[name][0], classes, monkeypatch)
    data = open_data(name, InputFormat(3), root=tmp_path)
    assert data.classes == [f"class {n}" for n in range(classes)]
    assert data.size == 32
    for source, (pictures, truth) in zip(
        (data.train, data.test), parts.values(), strict=True
    ):
        out, targets = taken(source)
        assert np.array_equal(as_bytes(out, data), pictures)
        assert targets.tolist() == truth.tolist()
    images, _ = parts["train"]
    assert data.mean == pytest.approx((images / 255).mean((0, 2, 3)))
    assert data.std == pytest.approx((images / 255).std((0, 2, 3)))


def test_a_changed_byte_in_a_file_of_cifar_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar(tmp_path, datasets.CIFAR10, 10, monkeypatch)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BadData, match=r"cifar-10-batches-py or is damaged.*--download"):
        open_data("cifar10", InputFormat(3), root=tmp_path)


def test_grey_is_given_as_equal_colours_and_colours_as_grey(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey = write_idx(tmp_path / "MNIST/raw")["train"][0]
    colour = write_cifar(tmp_path, datasets.CIFAR10, 10, monkeypatch)["train"][0]
    data = open_data("mnist", InputFormat(3), root=tmp_path)
    out = as_bytes(taken(data.train)[0], data)
    assert all(np.array_equal(out[:, c], grey) for c in range(3))
    assert len(data.mean) == len(data.std) == 3
    data = open_data("cifar10", InputFormat(1), root=tmp_path)
    out = as_bytes(taken(data.train)[0], data)[:, 0]
    luma = (colour * np.array([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    assert np.abs(out - luma).max() < 1.1
    with pytest.raises(ValueError, match="2 channels, the images have 3"):
        open_data("cifar10", InputFormat(2), root=tmp_path)


def test_images_are_resized_as_pillow_resizes_them(tmp_path: Path) -> None:
    grey = write_idx(tmp_path / "MNIST/raw")["t10k"][0]
    for size in (14, 40):
        data = open_data("mnist", InputFormat(1, size), root=tmp_path)
        out = as_bytes(taken(data.test)[0], data)[:, 0]
        assert data.size == size
        for mine, scan in zip(out, grey, strict=True):
            theirs = Image.fromarray(scan).resize(
                (size, size), Image.Resampling.BILINEAR
            )
            assert np.abs(mine.astype(int) - np.asarray(theirs)).max() <= 1


def test_statistics_that_a_start_brings_are_taken_instead_of_the_datas(
    tmp_path: Path,
) -> None:
    grey = write_idx(tmp_path / "MNIST/raw")["train"][0]
    look = InputFormat(1, None, (0.25,), (0.5,))
    data = open_data("mnist", look, root=tmp_path)
    out, _ = taken(data.train)
    assert (data.mean, data.std) == ((0.25,), (0.5,))
    np.testing.assert_allclose(
        out[:, 0].numpy(), (grey / 255 - 0.25) / 0.5, rtol=1e-5, atol=1e-6
    )


def test_digits_are_the_embedded_scans() -> None:
    data = open_data("digits", InputFormat(1, 8))
    images, labels = digits("test", 8)
    out, targets = taken(data.test)
    assert np.array_equal(as_bytes(out, data), (images * 255).round().byte().numpy())
    assert torch.equal(targets, labels)
    assert open_data("digits", InputFormat(1)).size == 32


@pytest.mark.parametrize("channels", [1, 3])
def test_images_that_are_made_numbers_once_are_those_made_at_every_step(
    monkeypatch: pytest.MonkeyPatch, channels: int
) -> None:
    once = open_data("digits", InputFormat(channels))
    drawn = open_data("digits", InputFormat(channels), augment=["basic-augmentation"])
    monkeypatch.setattr("cnn_lab.sources.AS_NUMBERS", 0)
    each = open_data("digits", InputFormat(channels))
    rows = torch.tensor([5, 0, 596])
    for a, b in ((once.train, each.train), (once.test, each.test)):
        (x, labels), (y, same) = (p.take(rows, torch.empty(3, 0)) for p in (a, b))
        assert torch.equal(x, y)
        assert torch.equal(labels, same)
    assert (once.train.inputs.dtype, each.train.inputs.dtype) == (
        torch.float32, torch.uint8,
    )  # fmt: skip
    assert drawn.train.inputs.dtype == torch.uint8  # an augmentation wants bytes


@pytest.mark.parametrize("name", LOADERS)
def test_missing_files_are_told_with_their_place_and_the_cure(
    name: str, tmp_path: Path
) -> None:
    place = str(tmp_path / LOADERS[name][1])
    with pytest.raises(BadData, match=r"put its files there.*--download") as told:
        open_data(name, InputFormat(1), root=tmp_path)
    assert place in str(told.value)
    assert "\n" not in str(told.value)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'imagenet'; expected one of digits, mnist"):
        open_data("imagenet", InputFormat(3))


@pytest.mark.parametrize("name", LOADERS)
def test_a_download_without_a_network_ends_in_one_line(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def nowhere(*asked: Any, **given: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    for proxy in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(proxy, raising=False)
        monkeypatch.delenv(proxy.upper(), raising=False)
    monkeypatch.chdir(tmp_path)
    asked = ["cnn-lab", "train", "LeNet5", "--data", name, "--size", "32", "--download"]
    monkeypatch.setattr("sys.argv", asked)
    with pytest.raises(SystemExit) as end:
        main()
    told = capsys.readouterr().err.splitlines()
    assert end.value.code == 1
    assert len(told) == 1
    assert told[0].startswith(f"cnn-lab: {name} could not be fetched: ")


def test_a_file_that_is_there_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_idx(tmp_path / "MNIST/raw")
    monkeypatch.setattr(socket, "getaddrinfo", None)
    open_data("mnist", InputFormat(1), root=tmp_path, download=True)


# --- photos --------------------------------------------------------------------------


def photo(
    path: Path, h: int = 40, w: int = 60, mode: str = "RGB", seed: int = 0
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    image = Image.fromarray(coarse).resize((w, h), Image.Resampling.BICUBIC)
    image.convert(mode).save(path)


def folder(
    path: Path, images: int = 7, classes: tuple[str, ...] = ("cat", "dog")
) -> Path:
    for n, name in enumerate(classes):
        for k in range(images):
            photo(path / name / f"{k}.{'png' if k % 2 else 'jpg'}", seed=10 * n + k)
    return path


@pytest.mark.parametrize("tests", ["val", "test"])
def test_a_folder_with_parts_is_read_as_it_is_divided(
    tests: str, tmp_path: Path
) -> None:
    folder(tmp_path / "train", 3)
    folder(tmp_path / tests, 2)
    data = open_data(f"folder:{tmp_path}", PLAIN)
    assert data.classes == ["cat", "dog"]
    assert isinstance(data.train, Photos)
    assert isinstance(data.test, Photos)
    assert {Path(f).parts[-3] for f, _ in data.train.files} == {"train"}
    assert {Path(f).parts[-3] for f, _ in data.test.files} == {tests}
    assert (len(data.train), len(data.test)) == (6, 4)
    assert taken(data.test)[1].tolist() == [0, 0, 1, 1]


def test_parts_with_other_classes_are_refused_with_their_names(tmp_path: Path) -> None:
    folder(tmp_path / "train", 2)
    folder(tmp_path / "val", 2, ("cat", "hen"))
    with pytest.raises(BadData, match="train and val differ in dog, hen"):
        open_data(f"folder:{tmp_path}", PLAIN)


def held(path: Path) -> list[set[str]]:
    data = open_data(f"folder:{path}", PLAIN)
    assert data.names is not None
    assert not set(data.names.train) & set(data.names.test)
    return [set(data.names.train), set(data.names.test)]


def test_without_parts_a_fifth_is_held_out_and_a_photo_more_or_less_moves_no_other(
    tmp_path: Path,
) -> None:
    folder(tmp_path, 60)
    folder(tmp_path, 2, ("owl",))
    train, test = held(tmp_path)
    everything = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")}
    assert train | test == everything
    assert 14 <= len(test) <= 36  # 24 of 120, and one owl
    assert {Path(name).parts[0] for name in test} == {"cat", "dog", "owl"}
    assert {Path(name).parts[0] for name in train} == {"cat", "dog", "owl"}
    assert held(tmp_path) == [train, test]
    for n, gone in enumerate(["cat/3.png", "dog/8.jpg", "dog/11.png"]):
        (tmp_path / gone).unlink()
        photo(tmp_path / "cat" / f"new-{n}.png")
        now = held(tmp_path)
        assert now[0] <= {*train, *(f"cat/new-{k}.png" for k in range(3))}
        assert now[1] <= {*test, *(f"cat/new-{k}.png" for k in range(3))}


def test_the_held_out_part_does_not_depend_on_where_the_folder_lies(
    tmp_path: Path,
) -> None:
    folder(tmp_path / "here")
    shutil.copytree(tmp_path / "here", tmp_path / "there" / "again")
    held = []
    for place in ("here", "there/again"):
        data = open_data(f"folder:{tmp_path / place}", PLAIN)
        assert isinstance(data.test, Photos)
        held.append([Path(f).relative_to(tmp_path / place) for f, _ in data.test.files])
    assert held[0] == held[1]


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.jpg", "RGB"), ("a.jpg", "L"), ("a.jpg", "CMYK"), ("a.png", "RGB"),
     ("a.png", "L"), ("a.png", "P"), ("a.png", "RGBA"), ("a.png", "LA"), ("a.png", "1")],
)  # fmt: skip
def test_photos_of_every_kind_come_as_three_colours(
    name: str, mode: str, tmp_path: Path
) -> None:
    photo(tmp_path / name, 32, 32, mode)
    out, _ = taken(Photos([(str(tmp_path / name), 0)], PLAIN))
    assert out.shape == (1, 3, 32, 32)
    with Image.open(tmp_path / name) as image:
        expected = transforms.Compose(
            [transforms.Resize(37), transforms.CenterCrop(32), transforms.PILToTensor()]
        )(image.convert("RGB"))
    assert (out[0] * 255 - expected).abs().max() <= 1.01
    if mode in ("L", "LA", "1"):
        assert torch.equal(out[0, 0], out[0, 2])


def test_sixteen_bits_are_read_as_their_upper_eight(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(0, 1 << 16, (30, 30)).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "16.png")
    Image.fromarray((grey // 256).astype(np.uint8)).save(tmp_path / "8.png")
    both = Photos([(str(tmp_path / f"{bits}.png"), 0) for bits in (16, 8)], PLAIN)
    out, _ = taken(both)
    assert out.std() > 0.05
    assert torch.equal(out[0], out[1])


def test_a_palette_with_transparent_colours_is_read_without_a_warning(
    tmp_path: Path,
) -> None:
    photo(tmp_path / "a.png", mode="P")
    with Image.open(tmp_path / "a.png") as image:
        image.save(tmp_path / "b.png", transparency=bytes([0] * 256))
    out, _ = taken(Photos([(str(tmp_path / "b.png"), 0)], PLAIN))
    assert (out == 1).all()  # white


@pytest.mark.parametrize(("h", "w"), [(300, 400), (500, 240), (224, 224), (60, 90)])
def test_the_test_part_is_cut_as_torchvision_cuts_it(
    h: int, w: int, tmp_path: Path
) -> None:
    photo(tmp_path / "a.png", h, w)
    look = InputFormat(3, None, (0.0,) * 3, (1.0,) * 3)
    out, _ = taken(Photos([(str(tmp_path / "a.png"), 0)], look))
    usual = transforms.Compose(
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.PILToTensor()]
    )
    with Image.open(tmp_path / "a.png") as image:
        expected = usual(image)
    assert out.shape == (1, 3, 224, 224)
    assert (out[0] * 255 - expected).abs().max() <= 1.01


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 9), (3, 2), (200, 7)])
def test_tiny_and_narrow_photos_are_enlarged(h: int, w: int, tmp_path: Path) -> None:
    photo(tmp_path / "a.png", h, w)
    for augment in ([], ["basic-augmentation", "cutout"]):
        source = Photos([(str(tmp_path / "a.png"), 0)], PLAIN, augment)
        out, _ = taken(source, source.draws)
        assert out.shape == (1, 3, 32, 32)


def test_photos_have_imagenets_statistics_or_their_mean_for_a_grey_network(
    tmp_path: Path,
) -> None:
    folder(tmp_path, 2)
    data = open_data(f"folder:{tmp_path}", InputFormat(3, 32))
    assert (data.mean, data.std) == (COLOURS, SPREADS)
    plain = open_data(f"folder:{tmp_path}", PLAIN)
    expected = transforms.Normalize(COLOURS, SPREADS)(taken(plain.test)[0])
    torch.testing.assert_close(taken(data.test)[0], expected)
    grey = open_data(f"folder:{tmp_path}", InputFormat(1, 32))
    assert grey.mean == pytest.approx((sum(COLOURS) / 3,))
    assert grey.std == pytest.approx((sum(SPREADS) / 3,))
    assert taken(grey.test)[0].shape == (2, 1, 32, 32)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_photo_that_is_read_many_times_is_augmented_anew_each_time(
    name: str, tmp_path: Path
) -> None:
    photo(tmp_path / "a.png")
    source = Photos([(str(tmp_path / "a.png"), 0)] * 30, PLAIN, [name])
    draws = torch.rand(30, source.draws, dtype=torch.float64)
    state = torch.get_rng_state()
    out, _ = source.take(torch.arange(30), draws)
    assert len(out.flatten(1).unique(dim=0)) > 12
    assert torch.equal(torch.get_rng_state(), state)
    order = torch.tensor([20, 3])  # and alone as among the others
    assert torch.equal(source.take(order, draws[order])[0], out[order])


def test_photos_are_cut_and_mirrored_as_torchvision_does_under_the_seed(
    tmp_path: Path,
) -> None:
    photo(tmp_path / "a.png")
    source = Photos([(str(tmp_path / "a.png"), 0)] * 8, PLAIN, ["basic-augmentation"])
    draws = torch.rand(8, 1, dtype=torch.float64)
    out, _ = source.take(torch.arange(8), draws)
    with Image.open(tmp_path / "a.png") as image:
        pixels = transforms.functional.pil_to_tensor(image)
    usual = transforms.Compose(
        [transforms.RandomResizedCrop(32), transforms.RandomHorizontalFlip()]
    )
    for mine, draw in zip(out, draws, strict=True):
        torch.manual_seed(int(draw.item() * 2**53))
        assert (mine * 255 - usual(pixels)).abs().max() <= 1.01


def test_the_test_part_is_never_augmented(tmp_path: Path) -> None:
    folder(tmp_path)
    augmented = open_data(f"folder:{tmp_path}", PLAIN, augment=AUGMENTATIONS)
    plain = open_data(f"folder:{tmp_path}", PLAIN)
    assert augmented.test.draws == 0
    assert torch.equal(taken(augmented.test)[0], taken(plain.test)[0])
    scans = [
        open_data("digits", InputFormat(1, 8), augment=a) for a in ([], AUGMENTATIONS)
    ]
    assert torch.equal(taken(scans[0].test)[0], taken(scans[1].test)[0])
    assert scans[1].test.draws == 0


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    folder(tmp_path, 2)
    (tmp_path / "dog" / "0.jpg").write_bytes(b"no image")
    data = open_data(f"folder:{tmp_path}", PLAIN)
    told = r"dog/0\.jpg is not an image that can be read"
    for part in (data.train, data.test):
        if any(file.endswith("dog/0.jpg") for file, _ in part.files):  # type: ignore[attr-defined]
            with pytest.raises(BadData, match=told):
                taken(part)


def test_folders_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"nothing is no folder of class folders"):
        open_data(f"folder:{tmp_path / 'nothing'}", PLAIN)
    folder(tmp_path / "empty", 2)
    os.makedirs(tmp_path / "empty" / "owl")
    with pytest.raises(BadData, match=r"owl"):
        open_data(f"folder:{tmp_path / 'empty'}", PLAIN)
    folder(tmp_path / "one", 1)
    with pytest.raises(BadData, match=r"cat has one image"):
        open_data(f"folder:{tmp_path / 'one'}", PLAIN)
