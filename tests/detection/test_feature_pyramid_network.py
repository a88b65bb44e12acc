from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torchvision.ops import FeaturePyramidNetwork as TorchvisionPyramid
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from cnn_site.equivalence import compare
from cnn_techniques.detection import (
    FeaturePyramidNetwork,
    FeaturePyramidP6P7,
    FeaturePyramidPool,
    RetinaNet,
    RetinaNetBackbone,
    retinanet_detections,
    retinanet_loss,
)
from cnn_techniques.evaluation.model_cost import model_cost
from cnn_techniques.modern import BasicBlock, ResNet


def maps(batch: int = 2, channels: tuple[int, ...] = (8, 12, 16)) -> list[Tensor]:
    """C3, C4, C5 of an image of 104 x 72 pixels: no level is exactly twice the next."""
    return [
        torch.randn(batch, c, 13 // 2**k + 1, 9 // 2**k + 1)
        for k, c in enumerate(channels)
    ]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


DEVICE_CASES = {
    "FeaturePyramidNetwork": lambda: (FeaturePyramidNetwork([8, 12, 16], 8), (maps(),)),
    "FeaturePyramidNetwork with P6 and P7": lambda: (
        FeaturePyramidNetwork([8, 12, 16], 8, FeaturePyramidP6P7(16, 8, from_c5=True)),
        (maps(),),
    ),
}


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


class Named(nn.Module):
    """torchvision's pyramid takes and gives dictionaries; a list goes in and comes out here."""

    def __init__(self, pyramid: nn.Module) -> None:
        super().__init__()
        for name, child in pyramid.named_children():
            self.add_module(name, child)
        self.run = [pyramid]

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return list(
            self.run[0](
                OrderedDict((str(k), c) for k, c in enumerate(features))
            ).values()
        )


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("three levels", lambda: None, lambda: None),
        (
            "P6 and P7 from P5",
            lambda: FeaturePyramidP6P7(8, 8),
            lambda: LastLevelP6P7(8, 8),
        ),
        (
            "P6 and P7 from C5",
            lambda: FeaturePyramidP6P7(16, 8, from_c5=True),
            lambda: LastLevelP6P7(16, 8),
        ),
        ("P6 by subsampling", lambda: FeaturePyramidPool(), lambda: LastLevelMaxPool()),
    ],
)
def test_pyramid_equals_torchvisions(evidence, name, ours, theirs) -> None:
    comparison = compare(
        FeaturePyramidNetwork([8, 12, 16], 8, ours()),
        Named(TorchvisionPyramid([8, 12, 16], 8, theirs())),
        (maps(),),
    )
    evidence.equivalent(
        name,
        comparison,
        reference="torchvision.ops.FeaturePyramidNetwork",
        settings=name,
    )


def test_weights_of_torchvisions_pyramid_load_strictly() -> None:
    theirs = TorchvisionPyramid([512, 1024, 2048], 256, LastLevelP6P7(256, 256))
    FeaturePyramidNetwork(
        [512, 1024, 2048], 256, FeaturePyramidP6P7(256, 256)
    ).load_state_dict(theirs.state_dict())


def test_parameter_count_is_the_formula(evidence) -> None:
    rows = {}
    for key, name, widths in [
        ("resnet18", "ResNet-18, 34", [128, 256, 512]),
        ("resnet50", "ResNet-50 to 152", [512, 1024, 2048]),
    ]:
        with torch.device("meta"):
            plain = FeaturePyramidNetwork(widths, 256)
            both = FeaturePyramidNetwork(widths, 256, FeaturePyramidP6P7(256, 256))
        formula = sum(c * 256 + 256 for c in widths) + 3 * (9 * 256 * 256 + 256)
        assert parameters(plain) == formula
        assert parameters(both) == formula + 2 * (9 * 256 * 256 + 256)
        with torch.device("meta"):
            features = [
                torch.empty(1, c, s, s)
                for c, s in zip(widths, (100, 50, 25), strict=True)
            ]
            costs = [model_cost(fpn.eval(), features).macs for fpn in (plain, both)]
        rows[key] = {
            "name": name,
            "widths": widths,
            "params": parameters(plain),
            "params_p6p7": parameters(both),
            "macs": costs[0],
            "macs_p6p7": costs[1],
        }
    evidence.computed("cost", rows)


def test_matches_the_recurrence_written_out() -> None:
    fpn, (c3, c4, c5) = (
        FeaturePyramidNetwork([8, 12, 16], 8).double(),
        [m.double() for m in maps()],
    )

    def lateral(level: int, c: Tensor) -> Tensor:
        conv = fpn.inner_blocks[level][0]
        return (
            torch.einsum("nchw,dc->ndhw", c, conv.weight[:, :, 0, 0])
            + conv.bias[:, None, None]
        )

    def up(coarse: Tensor, fine: Tensor) -> Tensor:
        rows = torch.arange(fine.shape[2]) * coarse.shape[2] // fine.shape[2]
        columns = torch.arange(fine.shape[3]) * coarse.shape[3] // fine.shape[3]
        return coarse[:, :, rows][:, :, :, columns]

    m5 = lateral(2, c5)
    m4 = lateral(1, c4) + up(m5, c4)
    m3 = lateral(0, c3) + up(m4, c3)
    expected = [
        block(m) for block, m in zip(fpn.layer_blocks, (m3, m4, m5), strict=True)
    ]
    torch.testing.assert_close(fpn([c3, c4, c5]), expected)


def test_a_fine_level_sees_the_coarsest_map_but_never_the_reverse() -> None:
    fpn, (c3, c4, c5) = FeaturePyramidNetwork([8, 12, 16], 8), maps()
    before = fpn([c3, c4, c5])
    coarse_changed, fine_changed = fpn([c3, c4, c5 + 1]), fpn([c3 + 1, c4, c5])
    assert not torch.allclose(before[0], coarse_changed[0])
    torch.testing.assert_close(fine_changed[1:], before[1:], rtol=0, atol=0)


def test_a_constant_map_gives_a_constant_level_away_from_the_border() -> None:
    fpn = FeaturePyramidNetwork([2, 2, 2], 4)
    levels = fpn(
        [torch.ones(1, 2, 16, 12), torch.ones(1, 2, 8, 6), torch.ones(1, 2, 4, 3)]
    )
    inside = levels[0][:, :, 1:-1, 1:-1]
    torch.testing.assert_close(inside, inside[:, :, :1, :1].expand_as(inside))


def test_every_level_has_the_width_and_the_size_of_its_map() -> None:
    features = maps()
    levels = FeaturePyramidNetwork([8, 12, 16], 8, FeaturePyramidP6P7(8, 8))(features)
    assert [tuple(p.shape[2:]) for p in levels[:3]] == [
        tuple(c.shape[2:]) for c in features
    ]
    assert [tuple(p.shape) for p in levels[3:]] == [(2, 8, 2, 2), (2, 8, 1, 1)]
    assert {p.shape[1] for p in levels} == {8}


def test_gradients_reach_every_parameter_and_every_map() -> None:
    fpn = FeaturePyramidNetwork([8, 12, 16], 8, FeaturePyramidP6P7(8, 8))
    features = [c.requires_grad_() for c in maps()]
    sum(p.square().mean() for p in fpn(features)).backward()
    assert all(
        p.grad is not None and p.grad.any() for p in [*fpn.parameters(), *features]
    )


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="in_channels=\\[\\]"):
        FeaturePyramidNetwork([])
    with pytest.raises(ValueError, match="out_channels=0"):
        FeaturePyramidNetwork([8], 0)
    with pytest.raises(ValueError, match="in_channels=16, out_channels=8"):
        FeaturePyramidP6P7(16, 8)
    fpn = FeaturePyramidNetwork([8, 12, 16], 8)
    with pytest.raises(ValueError, match="expected 3 maps, got 2"):
        fpn(maps()[:2])
    with pytest.raises(
        ValueError, match=r"expected \(N, 8, H, W\), got \(2, 16, 4, 3\)"
    ):
        fpn(maps()[::-1])


# ---------------------------------------------------------------- the record


class WithoutTopDown(nn.Module):
    """The same convolutions on the same maps, each level by itself."""

    def __init__(self, pyramid: FeaturePyramidNetwork) -> None:
        super().__init__()
        self.pyramid = pyramid

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        laterals, smooths = self.pyramid.inner_blocks, self.pyramid.layer_blocks
        levels = zip(laterals, smooths, features, strict=True)
        return [smooth(lateral(c)) for lateral, smooth, c in levels]


class Detector(nn.Module):
    """RetinaNet on a ResNet-10 of width 16, and its post-processing."""

    def __init__(self, top_down: bool) -> None:
        super().__init__()
        body = ResNet(BasicBlock, (1, 1, 1, 1), width=16, in_channels=1)
        pyramid: nn.Module = FeaturePyramidNetwork([32, 64, 128], 32)
        backbone = RetinaNetBackbone(
            body, pyramid if top_down else WithoutTopDown(pyramid)
        )
        sizes, strides, std = (14, 22, 34), (8, 16, 32), (2 / (9 * 32)) ** 0.5
        self.network = RetinaNet(backbone, 32, 10, sizes, strides, std)

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        return retinanet_detections(self.network(images), limit=100)


def train_one(
    top_down: bool, count: int, epochs: int, batch_size: int, lr: float, seed: int
) -> dict[str, object]:
    """Learn scenes of training digits; find the digits in 300 scenes of test digits."""
    from torchmetrics.detection import MeanAveragePrecision

    from cnn_lab.data import scenes
    from cnn_lab.fit import fit, predict, steps

    torch.manual_seed(seed)
    model = Detector(top_down)
    train = scenes(count, 64, seed, "train", (1, 3), (0.3, 0.55))
    optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.01)
    total = steps(count, epochs=epochs, batch_size=batch_size)
    history = fit(
        model,
        (train.images, train.targets),
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        schedule=OneCycleLR(optimizer, lr, total, pct_start=0.1),
        loss=lambda m, x, y: sum(retinanet_loss(m.network(x), y).values()),
        seed=seed,
    )
    test = scenes(300, 64, 0, "test", (1, 3), (0.3, 0.55))
    metric = MeanAveragePrecision(backend="pycocotools")
    metric.update(predict(model, test.images, 50), test.targets)
    scores = metric.compute()
    return {
        "curve": [epoch["loss"] for epoch in history],
        **{key: scores[key].item() for key in ("map", "map_50", "map_75")},
    }


def train_both(seeds: list[int], **settings) -> dict[str, object]:
    from cnn_lab.record import interval, paired, repeat

    cache = Path(__file__).parents[2] / ".cache" / "record" / "fpn.jsonl"
    arms = {
        "without": {"top_down": False, **settings},
        "with": {"top_down": True, **settings},
    }
    names = {"without": "Each level by itself", "with": "Feature pyramid"}
    results = repeat(train_one, arms, seeds, cache)
    rows: dict[str, dict] = {}
    for arm, runs in results.items():
        rows[arm] = {"name": names[arm]}
        for key in ("map", "map_50", "map_75"):
            values = [run[key] for run in runs]
            rows[arm][key] = {**interval(values), "values": values}
        rows[arm]["curve"] = [run["curve"] for run in runs]
    values = [rows[arm]["map"]["values"] for arm in ("with", "without")]
    pair = {"name": "Feature pyramid - each level by itself", **paired(*values)}
    return {
        "seeds": len(seeds),
        "scenes": settings["count"],
        "epochs": settings["epochs"],
        "arms": rows,
        "paired": {"top_down": pair},
    }


@pytest.mark.record
def test_record_a_narrow_retinanet_with_and_without_the_top_down_path(
    evidence,
) -> None:
    pytest.importorskip("torchmetrics")
    # RetinaNet's settings, with fewer scenes and epochs.
    arguments = {
        "count": 1500,
        "epochs": 6,
        "batch_size": 8,
        "lr": 0.002,
        "seeds": [0, 1, 2, 3, 4],
    }
    result = evidence.measured("scenes", arguments=arguments, run=train_both)
    assert min(arm["map_50"]["mean"] for arm in result["arms"].values()) > 0.2


@pytest.mark.record
def test_record_the_same_with_the_scenes_and_epochs_of_retinanets_record(
    evidence,
) -> None:
    pytest.importorskip("torchmetrics")
    # Decided on after the shorter run: does its difference last?
    arguments = {
        "count": 3000,
        "epochs": 8,
        "batch_size": 8,
        "lr": 0.002,
        "seeds": [0, 1, 2, 3, 4],
    }
    result = evidence.measured("scenes_long", arguments=arguments, run=train_both)
    assert min(arm["map_50"]["mean"] for arm in result["arms"].values()) > 0.5
