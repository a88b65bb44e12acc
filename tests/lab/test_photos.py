"""Photos as they come: turned, transparent, thin, huge, and beside what programs leave behind."""

import json
import pickle
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnn_lab import checkpoint
from cnn_lab.augment import AUGMENTATIONS
from cnn_lab.evaluate import evaluate
from cnn_lab.fit import BadData
from cnn_lab.photos import InputFormat, Photos, parts, read, scan
from cnn_lab.recipe import Recipe
from cnn_lab.saved import CONFIG, LAST, PHOTOS
from cnn_lab.sources import PhotoNames, open_data, photo_changes
from cnn_lab.stop import Refused
from cnn_lab.train import train

TINY = "ResNet(BasicBlock, (1,), width=4, small_images=True)"
PLAIN = InputFormat(3, 16, (0.0,) * 3, (1.0,) * 3)


def photos(
    path: Path, each: int = 10, classes: tuple[str, ...] = ("a", "b"), seed: int = 0
) -> Path:
    draw = np.random.default_rng(seed)
    for name in classes:
        (path / name).mkdir(parents=True, exist_ok=True)
        for n in range(each):
            pixels = draw.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path / name / f"{n:02}.png")
    return path


def recipe(folder: Path, **options: Any) -> Recipe:
    return Recipe(TINY, data=f"folder:{folder}", size=16, epochs=1, **options)


# --- pixels --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "mode"), [("png", "RGB"), ("tif", "RGB"), ("tif", "L")]
)
@pytest.mark.parametrize("tag", range(1, 9))
def test_a_photo_is_turned_as_its_exif_tag_says(
    tag: int, ending: str, mode: str, tmp_path: Path
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    upright = Image.fromarray(pixels).convert(mode)
    # How a camera that was held so stores it: the inverse of what the tag asks for.
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = tag
    turned = upright.transpose(stored[tag]) if tag in stored else upright
    turned.save(tmp_path / f"a.{ending}", exif=exif)
    found = read(str(tmp_path / f"a.{ending}")).permute(1, 2, 0).numpy()
    assert np.array_equal(found, np.asarray(upright.convert("RGB")))


RAMP = np.linspace(0, 1, 4096, dtype=np.float32).reshape(64, 64)


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("16.png", (RAMP * 65535).astype(np.uint16)),
        ("int32.tif", (RAMP * 65535).astype(np.int32)),
        ("float32.tif", RAMP),
    ],
)
def test_numbers_of_more_bits_are_read_over_their_range(
    name: str, pixels: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(pixels).save(tmp_path / name)
    found = read(str(tmp_path / name))[0].numpy().astype(float)
    assert np.abs(found - RAMP * 255).max() <= 1


@pytest.mark.parametrize(
    ("pixels", "told"),
    [
        (RAMP * 300, "numbers from 0 to 300; floating-point ones are read from 0 to 1"),
        (RAMP * np.nan, "numbers from nan to nan"),
        ((RAMP * 1e6).astype(np.int32), "numbers from 0 to 1000000; read are 8 and 16"),
        (-(RAMP * 9).astype(np.int32), "numbers from -9 to 0"),
    ],
)
def test_numbers_of_an_unknown_range_are_refused(
    pixels: np.ndarray, told: str, tmp_path: Path
) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(BadData, match=told):
        read(str(tmp_path / "a.tif"))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_white(mode: str, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    pixels = draw.integers(0, 255, (64, 64, 4), dtype=np.uint8)
    pixels[..., 3] = 0
    pixels[16:48, 16:48] = (200, 200, 200, 255)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    found = read(str(tmp_path / "a.png"))
    assert (found[:, :16] == 255).all()
    assert (found[:, 16:48, 16:48] == 200).all()


@pytest.mark.parametrize("shape", [(20_000, 3), (3, 20_000)])
def test_a_thin_image_takes_no_more_memory_than_the_size_asked_for(
    shape: tuple[int, int], tmp_path: Path
) -> None:
    Image.fromarray(np.full((*shape, 3), 7, np.uint8)).save(tmp_path / "a.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    source = Photos(
        [(str(tmp_path / "a.png"), 0)], InputFormat(3, 64, *[(0.5,) * 3] * 2)
    )
    out, _ = source.take(torch.tensor([0]), torch.zeros(1, 0))
    # Resized whole it would be 74 by 490,000: 100 MB of bytes, 400 as numbers.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000
    assert out.shape == (1, 3, 64, 64)
    assert torch.allclose(out, torch.full_like(out, (7 / 255 - 0.5) / 0.5))


def test_a_large_jpeg_is_decoded_smaller(tmp_path: Path) -> None:
    Image.new("RGB", (4000, 3000), (9, 99, 199)).save(tmp_path / "a.jpg")
    small, whole = (read(str(tmp_path / "a.jpg"), size) for size in (64, 500))
    assert whole.shape == (3, 3000, 4000)
    assert 8 * 64 <= min(small.shape[1:]) < 1500
    assert (small[:, 0, 0].int() - whole[:, 0, 0].int()).abs().max() <= 2


def in_mode(mode: str, width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    return Image.fromarray(pixels).convert(mode)


@pytest.mark.parametrize("tag", [1, 6])
@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        *[(mode, "png") for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")],
        *[("RGB", "tif"), ("CMYK", "tif"), ("RGB", "webp")],
    ],
)
def test_a_large_image_is_averaged_over_squares(
    mode: str, ending: str, tag: int, tmp_path: Path
) -> None:
    path, exif = str(tmp_path / f"a.{ending}"), Image.Exif()
    exif[0x0112] = tag
    options = {"lossless": True} if ending == "webp" else {}
    in_mode(mode, 199, 130).save(path, exif=exif, **options)
    whole = read(path, 65)  # of 130 twice that is not more than 16 times
    assert whole.shape == ((3, 130, 199) if tag == 1 else (3, 199, 130))
    small = read(path, 8)  # squares of 130 // 64 = 2
    assert small.shape == ((3, 65, 100) if tag == 1 else (3, 100, 65))
    inner = whole if tag == 1 else whole.rot90(1, (1, 2))  # as it is stored
    found = small if tag == 1 else small.rot90(1, (1, 2))
    squares = inner[:, :, :198].unfold(1, 2, 2).unfold(2, 2, 2).float().mean((3, 4))
    assert (found[:, :, :99].float() - squares).abs().max() <= 0.5
    edge = inner[:, :, 198].unfold(1, 2, 2).float().mean(2)
    assert (found[:, :, 99].float() - edge).abs().max() <= 0.5


PEAK = """
import re, sys
from cnn_lab.photos import read
def peak():
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\\s+(\\d+) kB", file.read())[1]) * 1024
before = peak()
shape = tuple(read(sys.argv[1], 64).shape)
print(shape, peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_of_a_large_image_there_is_one_copy(mode: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new(mode, (6000, 6000), (9, 99, 199, 99)[: len(mode)]).save(path)
    made = subprocess.run(  # the peak of this process is that of all tests before
        [sys.executable, "-c", PEAK, str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    shape, _, used = made.stdout.strip().rpartition(" ")
    assert shape == "(3, 546, 546)"  # squares of 6000 // 512 = 11
    assert 3 < int(used) / 6000**2 < 5.5, "4 bytes a pixel, and the bands"


def test_an_image_too_large_for_any_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("L", (15, 9)).save(tmp_path / "large.png")
    Image.new("L", (500, 9)).save(tmp_path / "huge.png")
    assert read(str(tmp_path / "large.png")).shape == (3, 9, 15)  # without a warning
    told = (
        r"huge\.png is too large: .*4500 pixels.* limit of 200 pixels; make it smaller"
    )
    with pytest.raises(BadData, match=told):
        read(str(tmp_path / "huge.png"))


# --- folders -------------------------------------------------------------------------


def test_what_programs_leave_behind_is_no_class_and_no_photo(tmp_path: Path) -> None:
    photos(tmp_path)
    photos(tmp_path, 2, (".ipynb_checkpoints", "__MACOSX", "a/.ipynb_checkpoints"))
    for name in ("._00.png", "Thumbs.db", ".DS_Store"):
        (tmp_path / "a" / name).write_bytes(b"no photo")
    (tmp_path / "b" / "notes.txt").write_text("no photo")
    (tmp_path / "b" / "phone.HEIC").write_bytes(b"no photo that is read")
    found = scan(tmp_path)
    assert found.classes == ["a", "b"]
    assert found.counts() == [10, 10]
    assert found.other == {".txt": 1, ".heic": 1}


def test_photos_in_folders_inside_a_class_are_of_that_class(tmp_path: Path) -> None:
    photos(tmp_path, 3)
    photos(tmp_path / "a", 2, ("more",))
    assert scan(tmp_path).counts() == [5, 3]


@pytest.mark.parametrize("held", ["test", "val", "valid", "validation", "testing"])
@pytest.mark.parametrize("learnt", ["train", "training"])
def test_the_usual_names_of_parts_are_known(
    learnt: str, held: str, tmp_path: Path
) -> None:
    photos(tmp_path / learnt, 4)
    photos(tmp_path / held, 2)
    train, test = parts(tmp_path)
    assert (train.path.name, test.path.name) == (learnt, held)
    assert (train.classes, len(train.files), len(test.files)) == (["a", "b"], 8, 4)


def test_with_a_part_for_choosing_and_one_for_testing_the_latter_is_tested(
    tmp_path: Path,
) -> None:
    for name in ("train", "valid", "test"):
        photos(tmp_path / name, 2)
    assert parts(tmp_path)[1].path.name == "test"


def test_train_alone_is_divided(tmp_path: Path) -> None:
    photos(tmp_path / "train", 20)
    train, test = parts(tmp_path)
    assert train.classes == ["a", "b"]
    assert len(train.files) + len(test.files) == 40 and test.files


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("one", "one has the single class 'only'; at least two are needed"),
        ("deep", r"is it a level too high\? .*deep/set has a, b"),
        ("endings", r"endings/b has no photo: it has \.heic"),
        ("tests", "tests has test and no train to learn from"),
        ("nothing", "nothing has no folder for a class"),
        ("nowhere", "nowhere is no folder of class folders: No such file"),
    ],
)
def test_folders_that_cannot_be_learnt_from_are_told_of(
    where: str, told: str, tmp_path: Path
) -> None:
    photos(tmp_path / "one", classes=("only",))
    photos(tmp_path / "deep" / "set")
    photos(tmp_path / "endings")
    for file in (tmp_path / "endings" / "b").iterdir():
        file.rename(file.with_suffix(".heic"))
    photos(tmp_path / "tests" / "test")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(BadData, match=told):
        open_data(f"folder:{tmp_path / where}", PLAIN)


# --- what a run remembers ------------------------------------------------------------


def test_a_run_is_tested_with_the_photos_that_it_held_out(tmp_path: Path) -> None:
    folder, run = photos(tmp_path / "photos", 30), tmp_path / "run"
    train(recipe(folder), run)
    then = json.loads((run / PHOTOS).read_text())
    assert evaluate(run / LAST)["images"] == len(then["test"])
    for n in range(40):  # of which some would be held out
        photos(folder, 1, (f"a/{n}",), seed=n)
    gone = folder / then["test"][0]
    gone.unlink()
    found = evaluate(run / LAST)
    assert found["images"] == len(then["test"]) - 1
    assert found["changed"].startswith(
        f"1 photo is gone ({then['test'][0]}); 40 photos"
    )


def test_a_checkpoint_without_its_list_is_not_tested_on_what_it_has_learnt(
    tmp_path: Path,
) -> None:
    folder, run = photos(tmp_path / "photos"), tmp_path / "run"
    train(recipe(folder), run)
    (run / PHOTOS).unlink()
    assert evaluate(run / LAST)["images"]  # the same photos: the part is known
    (folder / "a" / "00.png").rename(folder / "a" / "other.png")
    with pytest.raises(BadData, match=rf"{PHOTOS}, which tells what was held out"):
        evaluate(run / LAST)


def test_other_photos_are_tested_in_full_and_need_not_have_every_class(
    tmp_path: Path,
) -> None:
    folder, run = photos(tmp_path / "photos", classes=("a", "b", "c")), tmp_path / "run"
    train(recipe(folder), run)
    new = photos(tmp_path / "new", 4, ("c", "a"), seed=5)
    found = evaluate(run / LAST, f"folder:{new}")
    assert found["images"] == 8
    assert [row["images"] for row in found["classes"]] == [4, 0, 4]
    photos(new, 1, ("hen",))
    with pytest.raises(BadData, match="has the class 'hen', which is none of a, b, c"):
        evaluate(run / LAST, f"folder:{new}")


def test_going_on_with_other_photos_is_refused_with_what_has_changed(
    tmp_path: Path,
) -> None:
    folder, run = photos(tmp_path / "photos"), tmp_path / "run"
    train(recipe(folder), run)
    (run / "result.json").unlink()
    kept = (run / LAST).read_bytes()
    (folder / "a" / "03.png").rename(folder / "a" / "x.png")  # as many as before
    told = r"1 photo is gone \(a/03\.png\); 1 photo is new \(a/x\.png\)"
    with pytest.raises(Refused, match=told):
        train(recipe(folder), run, resume=True)
    assert (run / LAST).read_bytes() == kept
    (folder / "a" / "x.png").rename(folder / "a" / "03.png")
    train(recipe(folder), run, resume=True)


def test_many_changes_are_told_shortly() -> None:
    then = PhotoNames([f"a/{n}" for n in range(9)], [])
    assert photo_changes(then, then.train) == ""
    assert photo_changes(then, ["a/0"]) == "8 photos are gone (a/1, a/2, a/3, ...)"


def test_an_epoch_whose_testing_fails_is_kept_and_tested_later(
    tmp_path: Path,
) -> None:
    folder = photos(tmp_path / "photos")
    train(recipe(folder), tmp_path / "whole")
    test = folder / json.loads((tmp_path / "whole" / PHOTOS).read_text())["test"][0]
    kept = test.read_bytes()
    test.write_bytes(b"broken")
    run = tmp_path / "run"
    with pytest.raises(BadData, match=test.name):
        train(recipe(folder), run)
    state = checkpoint.load(run / LAST)
    assert state["untested"]["epoch"] == 1 and state["history"] == []
    test.write_bytes(kept)
    result = train(recipe(folder), run, resume=True)
    assert result["steps"] == 0  # nothing is learnt again
    whole = (tmp_path / "whole" / LAST).read_bytes()
    assert (run / LAST).read_bytes() == whole


# --- how processes are started -------------------------------------------------------


def test_what_a_loading_process_gets_can_be_pickled(tmp_path: Path) -> None:
    folder = photos(tmp_path)
    names = [name for name in AUGMENTATIONS]
    for data in (
        open_data(f"folder:{folder}", PLAIN, augment=names),
        open_data("digits", InputFormat(1, 8), augment=names),
    ):
        again = pickle.loads(pickle.dumps(data))
        for source, other in ((data.train, again.train), (data.test, again.test)):
            rows = torch.arange(4)
            draws = torch.full((4, source.draws), 0.3, dtype=torch.float64)
            assert torch.equal(source.take(rows, draws)[0], other.take(rows, draws)[0])


MINE = """
import torch
from torch import nn
from torch.utils.data import Dataset
from cnn_lab.own import Datasets

def net(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

class Noise(Dataset):
    classes = ["dark", "light"]

    def __init__(self, count):
        self.targets = [n % 2 for n in range(count)]

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, row):
        return torch.rand(1, 8, 8) + self.targets[row], self.targets[row]

def data():
    return Datasets(Noise(40), Noise(20))
"""
SHORT = ["--size", "16", "--epochs", "1", "--batch-size", "7"]
COMMANDS = {
    "train": [
        *("train", TINY, "--data", "folder:photos", *SHORT, "--validate", "0.2"),
        *("--augment", "basic-augmentation,randaugment"),
    ],
    "evaluate": ["evaluate", "alone-train/last.safetensors"],
    "transfer": [
        *("transfer", "photos", "--network", TINY, *SHORT, "--mixup", "0.2"),
        *("--weights", "alone-train/last.safetensors", "--strategy", "last-n"),
        *("--last", "1", "--augment", "basic-augmentation,trivialaugment"),
    ],
    "compare": [
        *("compare", TINY, "--data", "folder:photos", *SHORT, "--seeds", "2"),
        *("--with", "mixup=0.2", "--augment", "basic-augmentation,randaugment"),
    ],
    "own": [
        *("train", "mine:net", "--data", "mine:data", "--epochs", "1"),
        *("--batch-size", "10"),
    ],
}


def all_commands(start: str, workers: int) -> list[list[str]]:
    """All that load images, each with a file or folder of its own."""
    outs = {name: ["--out", f"{start}-{name}"] for name in COMMANDS}
    outs["evaluate"] = ["--json", f"{start}-evaluate.json"]
    more = ["--workers", str(workers)]
    return [[*asked, *more, *outs[name]] for name, asked in COMMANDS.items()]


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, forks: Any) -> Path:
    """Photos, and what a single process makes of them."""
    folder = tmp_path_factory.mktemp("yard")
    photos(folder / "photos", 20)
    (folder / "mine.py").write_text(MINE)
    forks.done(folder, *all_commands("alone", 0))
    return folder


@pytest.mark.slow
@pytest.mark.xdist_group("start methods")
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_all_commands_give_the_same_however_processes_are_started(
    method: str, yard: Path, forks: Any
) -> None:
    """Training and testing load with a process each, and so does choosing."""
    loads = 3 + 1 + 2 + 2 * 4 + 2
    if method == "spawn":  # each imports torch: of the comparison, the last run alone
        done = yard / f"{method}-compare"
        shutil.copytree(yard / "alone-compare", done)
        shutil.rmtree(done / "seed-1" / "mixup-0-2")
        loads -= 2 * 3
    (yard / "started").unlink(missing_ok=True)
    forks.done(yard, *all_commands(method, 1), method=method)
    assert forks.told("err") == ""
    assert (yard / "started").read_text().split() == [method] * loads

    for name in COMMANDS:
        found, expected = written(yard, method, name), written(yard, "alone", name)
        assert found.keys() == expected.keys() and found, name
        for file in found:
            assert found[file] == expected[file], f"{name}: {file}"


def written(yard: Path, start: str, name: str) -> dict[str, Any]:
    """What a command has written, by file, without times."""
    out = yard / f"{start}-{name}"
    if not out.exists():
        measures = json.loads(out.with_suffix(".json").read_text())
        return {"measures": measures}
    found: dict[str, Any] = {}
    for path in out.rglob("*"):
        file = str(path.relative_to(out))
        if path.suffix == ".safetensors" or path.name == PHOTOS:
            found[file] = path.read_bytes()
        elif path.suffix == ".json" and path.name != CONFIG:
            found[file] = timeless(json.loads(path.read_text()))
    return found


def timeless(value: Any) -> Any:
    if isinstance(value, list):
        return [timeless(one) for one in value]
    if isinstance(value, dict):
        left = ("time", "environment", "seconds", "processor_seconds")
        return {k: timeless(v) for k, v in value.items() if k not in left}
    return value


# --- divided folders -----------------------------------------------------------------


def test_a_divided_folder_is_tested_as_it_is_divided_whatever_the_run_remembers(
    tmp_path: Path,
) -> None:
    for part in ("train", "test"):
        photos(tmp_path / "photos" / part, 5)
    run = tmp_path / "run"
    train(recipe(tmp_path / "photos"), run)
    (run / PHOTOS).unlink()
    photos(tmp_path / "photos" / "test", 1, ("a",), seed=9)  # one is another now
    (tmp_path / "photos" / "test" / "b" / "00.png").unlink()
    assert evaluate(run / LAST)["images"] == 9
