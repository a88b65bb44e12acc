"""An exported network computes what torch does, or there is no file."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from PIL import Image
from torch import nn

from cnn_lab import checkpoint, cli, networks
from cnn_lab.evaluate import load_network
from cnn_lab.export import export
from cnn_lab.fit import BadData
from cnn_lab.photos import InputFormat, Photos
from cnn_lab.recipe import Recipe
from cnn_lab.saved import LAST
from cnn_lab.sources import normalised
from cnn_lab.stop import Refused
from cnn_lab.train import train

SMALL = "ResNet(BasicBlock, (1,), width=4, small_images=True)"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(Recipe(SMALL, size=8, epochs=1, weight_ema=0.9), folder)
    return folder / LAST


def untrained(network: str, size: int, path: Path) -> Path:
    """A checkpoint of a network on the digits as it was drawn."""
    model = networks.build(network, 10)
    channels = networks.channels(model)
    state = {
        "recipe": Recipe(network, size=size).to_json(),
        "classes": [str(digit) for digit in range(10)],
        "mean": [0.3] * channels,
        "std": [0.4] * channels,
        "size": size,
        "model": model.state_dict(),
        "weight_ema": None,
    }
    checkpoint.save(path, state)
    return path


def test_the_file_says_all_that_is_needed_and_nothing_of_the_machine(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before, path = run.read_bytes(), tmp_path / "net.onnx"
    asked = ["cnn-lab", "export", str(run), "--to", "onnx", "--out", str(path)]
    monkeypatch.setattr(sys, "argv", asked)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capfd.readouterr()
    assert (ended.value.code or 0, err) == (0, "")
    assert out.startswith(f"{path}: opset 18")
    assert "of the largest" in out
    assert "torch.onnx" not in out  # the exporter is quiet
    assert run.read_bytes() == before
    model, state = onnx.load(path), checkpoint.load(run)
    about = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    assert about.pop("version").startswith("cnn-techniques ")
    assert about == {
        "classes": state["classes"],
        "mean": state["mean"],
        "std": state["std"],
        "size": [8, 8],
        "channels": 3,
        "cut": 1.0,
        "network": SMALL,
    }
    assert [i.name for i in model.graph.input] == ["images"]
    assert [o.name for o in model.graph.output] == ["scores"]
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()
    assert [f.name for f in tmp_path.iterdir()] == ["net.onnx"]


def test_the_file_of_a_run_on_photos_says_which_part_its_tests_see(
    tmp_path: Path,
) -> None:
    draw = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for n in range(6):
            pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{n}.png")
    recipe = Recipe(SMALL, data=f"folder:{tmp_path / 'photos'}", size=8, epochs=1)
    train(recipe, tmp_path / "run")
    export(tmp_path / "run" / LAST, tmp_path / "net.onnx")
    about = {p.key: p.value for p in onnx.load(tmp_path / "net.onnx").metadata_props}
    for less, all_white in ((0.0, True), (0.1, False)):
        edge = round((1 - json.loads(about["cut"]) + less) / 2 * 320)
        photo = np.zeros((320, 320, 3), np.uint8)
        photo[edge : 320 - edge, edge : 320 - edge] = 255
        Image.fromarray(photo).save(tmp_path / "photo.png")
        shape = InputFormat(3, 224, (0.0,) * 3, (1.0,) * 3)
        photos = Photos([(str(tmp_path / "photo.png"), 0)], shape)
        image = photos.take(torch.tensor([0]), torch.empty(1, 0))[0]
        assert bool(image[..., 2:-2, 2:-2].min() > 0.99) == all_white


USED = """
import json, sys
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
classes, mean, std, (height, width) = (
    json.loads(about[name]) for name in ("classes", "mean", "std", "size")
)
image = np.load(sys.argv[2])  # (height, width, channels), values from 0 to 255
x = (image / 255 - np.array(mean)) / np.array(std)
x = x.transpose(2, 0, 1)[None].astype(np.float32)  # (1, channels, height, width)
(scores,) = session.run(["scores"], {"images": x})
print(classes[scores[0].argmax()])
assert "torch" not in sys.modules and "cnn_lab" not in sys.modules
"""


def test_the_file_is_used_with_onnxruntime_and_numpy_alone(
    run: Path, tmp_path: Path
) -> None:
    export(run, tmp_path / "net.onnx")
    model, state = load_network(run)
    image = torch.randint(256, (1, 3, 8, 8), dtype=torch.uint8)
    np.save(tmp_path / "image.npy", image[0].permute(1, 2, 0).numpy())
    with torch.no_grad():
        scores = model(normalised(image, tuple(state["mean"]), tuple(state["std"])))
    told = subprocess.run(
        [sys.executable, "-c", USED, tmp_path / "net.onnx", tmp_path / "image.npy"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == state["classes"][int(scores.argmax())]


def test_a_wrong_weight_leaves_no_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, real = tmp_path / "net.onnx", torch.onnx.export
    kept.write_text("an earlier file")

    def wrong(model: nn.Module, *args: Any, **options: Any) -> Any:
        program = real(model, *args, **options)
        weight = max(
            program.model.graph.initializers.values(), key=lambda v: v.const_value.size
        )
        changed = torch.from_numpy(weight.const_value.numpy().copy())
        changed.view(-1)[0] += 1.0
        weight.const_value = onnx_ir.tensor(changed.numpy(), name=weight.name)
        return program

    monkeypatch.setattr(torch.onnx, "export", wrong)
    with pytest.raises(Refused, match="computes something else"):
        export(run, kept)
    assert kept.read_text() == "an earlier file"
    assert [f.name for f in tmp_path.iterdir()] == ["net.onnx"]


def test_a_file_for_one_batch_size_leaves_no_file(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.onnx.export

    def fixed(*args: Any, **options: Any) -> Any:
        return real(*args, **{**options, "dynamic_shapes": None})

    monkeypatch.setattr(torch.onnx, "export", fixed)
    with pytest.raises(Refused, match="cannot be run"):
        export(run, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_data_that_are_gone_are_asked_for(run: Path, tmp_path: Path) -> None:
    state = checkpoint.load(run)
    state["recipe"]["data"] = f"folder:{tmp_path / 'gone'}"
    checkpoint.save(tmp_path / "last", state)
    with pytest.raises(BadData, match=r"gone.*--root.*--data"):
        export(tmp_path / "last")
    assert not (tmp_path / "model.onnx").exists()


def test_the_checkpoint_is_not_overwritten(run: Path) -> None:
    before = run.read_bytes()
    with pytest.raises(Refused, match="is the checkpoint itself"):
        export(run, run)
    assert run.read_bytes() == before


FAMILIES = [  # no operator of another family is missing here
    ("LeNet5", 32),
    ("squeezenet1_1", 32),
    ("mobilenet_v3_small", 32),
    ("shufflenet_v2_x0_5", 32),
    ("convnextv2_atto", 32),
    ("regnet_y_400mf", 32),
    ("repvgg_a0", 32),
    ("googlenet", 64),
    ("NetworkInNetwork", 32),
]


@pytest.mark.slow
@pytest.mark.parametrize(("network", "size"), FAMILIES)
def test_families_are_exported(network: str, size: int, tmp_path: Path) -> None:
    path = untrained(network, size, tmp_path / "last")
    assert export(path)["difference"] < 1e-4
