"""What is drawn in red is where the network looks, and what cannot be drawn is refused."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as T

from cnn_lab import networks, objects
from cnn_lab.explain import explained, last_places
from cnn_lab.pictures import Pictures
from cnn_lab.predict import predict, report
from cnn_lab.recipe import Recipe
from cnn_lab.saved import LAST
from cnn_lab.stop import Refused
from cnn_lab.train import train
from cnn_techniques.compression import quantize_int8

TINY = "ResNet(BasicBlock, (1,), width=4, small_images=True)"
VIT = "VisionTransformer(4, 1, 2, 8, 16, image_size=8)"


class Sums(nn.Module):
    """Each channel of a layer is the score of a class."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Conv2d(1, 2, 1, bias=False)
        nn.init.ones_(self.places.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.places(x).mean(dim=(2, 3))


def test_red_is_where_the_class_is() -> None:
    """A bright quarter speaks for the class; the dark rest of the image does not."""
    x = torch.zeros(1, 1, 16, 16)
    x[..., :8, :8] = 1
    model = Sums().eval()
    nn.init.constant_(model.places.weight[0], -1.0)  # against the other class
    picture = explained(model, "places", x, x[0], label=1)
    assert picture.shape == (3, 224, 224)
    assert picture.min() >= 0 and picture.max() <= 1 + 1e-6
    red = picture[0] - picture[2]
    assert red[:100, :100].min() > 0.5
    assert red[124:].abs().max() == red[:, 124:].abs().max() == 0


def test_what_is_not_seen_as_the_class_stays_grey() -> None:
    x = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    model = Sums().eval()
    nn.init.constant_(model.places.weight, -1.0)  # everything speaks against the class
    picture = explained(model, "places", x, x[0], label=0)
    torch.testing.assert_close(picture[0], picture[2])
    torch.testing.assert_close(picture[:1], T.resize(x[0], [224, 224]))


SIDE = {"GoogLeNet": 64}
CONVNEXT = "ConvNeXt((1, 1, 1, 1), (8, 16, 32, 64))"
GATED = "ResNet(BasicBlock, (1, 1, 1, 1), width=4, attention=EfficientChannelAttention)"


@pytest.mark.parametrize(
    ("network", "layer"),
    [
        (TINY, "layer1"),
        ("LeNet5", "features"),
        ("NetworkInNetwork", "features"),
        ("DenseNet((2, 2), 8)", "features"),
        ("GoogLeNet", "inception5b"),
        # The last map has one place: that of the stage before, not of a branch or a gate.
        ("ResNet(Bottleneck, (1, 1, 1, 1), width=4)", "layer3"),
        ("MobileNetV2(width=0.25)", "features.14.conv.0"),
        (CONVNEXT, "features.6.0"),
        (GATED, "layer3"),
    ],
)
def test_the_last_layer_with_places_is_found(network: str, layer: str) -> None:
    model = networks.build(network, 10).eval()
    side = SIDE.get(network, 32)
    images = torch.zeros(1, networks.channels(model), side, side)
    assert last_places(model, images) == layer
    out: list[Tensor] = []
    model.get_submodule(layer).register_forward_hook(lambda *a: out.append(a[2]))
    model(images)
    assert out[0].ndim == 4 and out[0].shape[2] * out[0].shape[3] > 1
    assert all(parameter.grad is None for parameter in model.parameters())


class Branches(nn.Module):
    """As in Inception's last blocks: each branch sees a part of what the scores need."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.Conv2d(1, 2, 3)
        self.left, self.right = nn.Conv2d(2, 1, 3), nn.Conv2d(2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.whole(x)
        sides = [self.left(x), self.right(x)]
        return torch.cat([side.mean(dim=(2, 3)) for side in sides], dim=1)


def test_a_branch_is_passed_over() -> None:
    assert last_places(Branches().eval(), torch.zeros(1, 1, 8, 8)) == "whole"


def test_one_place_that_pooling_copies_is_passed_over() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(1, 2, 3), nn.MaxPool2d(6), nn.AdaptiveAvgPool2d(4)),
        *(nn.Flatten(), nn.Linear(32, 3)),
    )
    assert last_places(model.eval(), torch.zeros(1, 1, 8, 8)) == "0"


def test_rounded_layers_are_refused_with_what_to_do() -> None:
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model = quantize_int8(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(),
        images,
    )
    with pytest.raises(Refused, match="no gradient; give the checkpoint that this one"):
        last_places(model, images[:1])


def test_a_network_without_such_a_layer_is_refused() -> None:
    rows = networks.build(VIT, 10).eval()
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    for model in (rows, flat):
        channels = networks.channels(model) if model is rows else 1
        with pytest.raises(Refused, match=r"^--explain: .* has no layer that gives"):
            last_places(model, torch.zeros(1, channels, 8, 8))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train(Recipe(TINY, size=8, epochs=1, learning_rate=0.01), folder)
    return folder / LAST


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two of one name in different folders, and one that is none."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / "a" / "one.png", folder / "b" / "one.jpg", folder / "none.png"]
    for n, path in enumerate(paths[:2]):
        path.parent.mkdir()
        Image.new("RGB", (40 + n, 30), (90 * n, 80, 200)).save(path)
    paths[2].write_bytes(b"none")
    return paths


def test_each_photo_that_is_read_gets_a_picture_and_the_same_classes(
    run: Path, photos: list[Path], tmp_path: Path
) -> None:
    plain = predict(run, photos)["images"]
    drawn = predict(run, photos, pictures=Pictures(tmp_path))["images"]
    pictures = [row.pop("picture", None) for row in drawn]
    assert drawn == plain
    assert pictures == [str(tmp_path / "one.png"), str(tmp_path / "one-2.png"), None]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one-2.png", "one.png"]
    with Image.open(tmp_path / "one.png") as picture:
        assert picture.size == (224, 224)


def test_the_picture_is_what_the_network_sees_of_the_photo(
    run: Path,
    photos: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its middle, in the network's size and channels, with the statistics taken back."""
    given: list[tuple[Tensor, Tensor, int]] = []

    def drawn(
        model: nn.Module, layer: str, x: Tensor, seen: Tensor, label: int
    ) -> Tensor:
        given.append((x, seen, label))
        return seen.expand(3, -1, -1)

    monkeypatch.setattr("cnn_lab.predict.explained", drawn)
    result = predict(run, photos[:1], top=10, pictures=Pictures(tmp_path))
    ((x, seen, label),) = given
    colour = torch.tensor([0, 80, 200])[:, None, None] / 255
    torch.testing.assert_close(seen, colour.expand(3, 8, 8), atol=3e-3, rtol=0)
    assert x.shape == (1, 3, 8, 8) and (x[0] - seen).abs().min() > 1e-3
    assert result["images"][0]["classes"][0]["name"] == str(label)


def test_a_module_that_runs_twice_is_passed_over() -> None:
    relu = nn.ReLU()
    model = nn.Sequential(
        *(nn.Conv2d(1, 2, 1), relu, nn.Conv2d(2, 2, 1), relu),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    assert last_places(model.eval(), torch.zeros(1, 1, 8, 8)) == "2"


def test_lines_and_json_tell_where_the_pictures_are(
    run: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report(run, photos[:1], 1, tmp_path / "out.json", out=tmp_path, explain=True)
    assert capsys.readouterr().out.endswith(f"({tmp_path / 'one.png'})\n")
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["images"][0]["picture"] == str(tmp_path / "one.png")
    report(run, photos[:1], 1, None, explain=True)
    assert (run.parent / "predictions" / "one.png").exists()


def test_no_picture_is_drawn_over_a_photo(
    run: Path, photos: list[Path], tmp_path: Path
) -> None:
    """Neither its own photo nor another of the same name, before anything is written."""
    before = photos[0].read_bytes()
    other = tmp_path / "one.jpg"
    Image.new("RGB", (9, 9)).save(other)
    for given in ([photos[0]], [other, photos[0]]):
        with pytest.raises(Refused, match=r"over the image .*one\.png; .* --out"):
            report(run, given, 1, None, out=photos[0].parent, explain=True)
    assert photos[0].read_bytes() == before
    assert [p.name for p in photos[0].parent.iterdir()] == ["one.png"]
    report(run, [other], 1, None, out=tmp_path, explain=True)
    assert (tmp_path / "one.png").exists()


def test_a_folder_without_pictures_to_draw_is_refused(
    run: Path, tmp_path: Path
) -> None:
    with pytest.raises(Refused, match=r"--out .* draws nothing, .* with --explain"):
        report(run, [], 1, None, out=tmp_path)


def test_what_a_detector_draws_needs_no_explanation(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "task_of", lambda path: objects.DETECT)
    with pytest.raises(Refused, match=r"^--explain: what the network of .* is drawn"):
        report(run, [], 1, None, explain=True)
