"""The block is torchvision's and timm's, and does what the paper's equations 2 to 4 say."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from cnn_lab import bench
from cnn_site.bench import (
    arguments,
    beside_the_baseline,
    cost_beside_the_baseline,
    time_beside_the_baseline,
)
from cnn_site.equivalence import compare
from cnn_techniques.attention import SqueezeExcitation
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import resnet50, resnet101
from cnn_techniques.modern.resnet import BasicBlock, Bottleneck, ResNet

DEVICE_CASES = {
    "SqueezeExcitation": lambda: (
        SqueezeExcitation(64, 4),
        (torch.randn(2, 64, 9, 7),),
    ),
    "hard sigmoid": lambda: (
        SqueezeExcitation(64, 16, gate=nn.Hardsigmoid),
        (torch.randn(2, 64, 9, 7),),
    ),
}
IMAGES = torch.randn(2, 64, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def block() -> SqueezeExcitation:
    torch.manual_seed(0)
    return SqueezeExcitation(64, 4)


def test_equals_torchvisions_block(evidence) -> None:
    reference = torchvision.ops.SqueezeExcitation(64, 4)
    comparison = compare(SqueezeExcitation(64, 4), reference, IMAGES)
    evidence.equivalent(
        "block",
        comparison,
        reference="torchvision.ops.SqueezeExcitation",
        settings="defaults",
    )


def test_equals_torchvisions_block_as_mobilenet_v3_uses_it(evidence) -> None:
    reference = torchvision.ops.SqueezeExcitation(
        64, 16, scale_activation=nn.Hardsigmoid
    )
    comparison = compare(
        SqueezeExcitation(64, 16, gate=nn.Hardsigmoid), reference, IMAGES
    )
    evidence.equivalent(
        "hard sigmoid",
        comparison,
        reference="torchvision.ops.SqueezeExcitation",
        settings="scale_activation=nn.Hardsigmoid",
    )


def test_equals_timms_block(evidence) -> None:
    timm = pytest.importorskip("timm")
    reference = timm.layers.SEModule(64, rd_channels=4)
    comparison = compare(SqueezeExcitation(64, 4), reference, IMAGES, match="order")
    evidence.equivalent(
        "timm", comparison, reference="timm.layers.SEModule", settings="rd_channels=4"
    )


def test_matches_the_equations_written_out(block: SqueezeExcitation) -> None:
    u = IMAGES
    z = torch.einsum("nchw->nc", u) / (u.shape[2] * u.shape[3])
    hidden = (
        torch.einsum("nc,rc->nr", z, block.fc1.weight[:, :, 0, 0]) + block.fc1.bias
    ).clamp(min=0)
    s = 1 / (
        1
        + torch.exp(
            -torch.einsum("nr,cr->nc", hidden, block.fc2.weight[:, :, 0, 0])
            - block.fc2.bias
        )
    )
    torch.testing.assert_close(block(u), torch.einsum("nchw,nc->nchw", u, s))


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (32, 32)])
def test_keeps_the_shape_for_any_size(
    block: SqueezeExcitation, size: tuple[int, int]
) -> None:
    assert block(torch.randn(2, 64, *size)).shape == (2, 64, *size)


def test_can_only_turn_channels_down(block: SqueezeExcitation) -> None:
    assert (block(IMAGES).abs() <= IMAGES.abs()).all()


def test_every_channel_is_scaled_by_one_number(block: SqueezeExcitation) -> None:
    factors = block(IMAGES) / IMAGES
    torch.testing.assert_close(
        factors, factors.mean(dim=(2, 3), keepdim=True).expand_as(factors)
    )


def test_the_gate_does_not_see_where_things_are(block: SqueezeExcitation) -> None:
    order = torch.randperm(IMAGES[0, 0].numel())
    shuffled = IMAGES.flatten(2)[:, :, order].view_as(IMAGES)
    expected = block(IMAGES).flatten(2)[:, :, order].view_as(IMAGES)
    torch.testing.assert_close(block(shuffled), expected)


def test_with_an_open_gate_the_block_is_the_identity(block: SqueezeExcitation) -> None:
    nn.init.zeros_(block.fc2.weight)
    nn.init.constant_(block.fc2.bias, 100.0)
    torch.testing.assert_close(block(IMAGES), IMAGES)


def test_gradients_reach_every_parameter(block: SqueezeExcitation) -> None:
    block(IMAGES).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in block.parameters())


@pytest.mark.parametrize(("channels", "squeezed"), [(0, 4), (64, 0), (64, -1)])
def test_refuses_widths_below_one(channels: int, squeezed: int) -> None:
    with pytest.raises(ValueError, match=f"squeeze_channels={squeezed}"):
        SqueezeExcitation(channels, squeezed)


@pytest.mark.parametrize("shape", [(64, 8, 8), (1, 32, 8, 8), (1, 64)])
def test_refuses_inputs_of_another_shape(
    block: SqueezeExcitation, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 64, H, W\)"):
        block(torch.zeros(shape))


def gated(reduction: int) -> Callable[[int], nn.Module]:
    return lambda channels: SqueezeExcitation(channels, channels // reduction)


def test_cost_beside_the_network_it_is_put_into(evidence) -> None:
    networks = {
        "resnet50": ("ResNet-50", resnet50),
        "se_resnet50_32": (
            "+ SE, r = 32",
            lambda: ResNet(Bottleneck, (3, 4, 6, 3), attention=gated(32)),
        ),
        "se_resnet50": (
            "+ SE, r = 16",
            lambda: ResNet(Bottleneck, (3, 4, 6, 3), attention=gated(16)),
        ),
        "se_resnet50_8": (
            "+ SE, r = 8",
            lambda: ResNet(Bottleneck, (3, 4, 6, 3), attention=gated(8)),
        ),
        "resnet101": ("ResNet-101", resnet101),
        "se_resnet101": (
            "+ SE, r = 16",
            lambda: ResNet(Bottleneck, (3, 4, 23, 3), attention=gated(16)),
        ),
    }
    rows = {}
    for key, (name, make) in networks.items():
        with torch.device("meta"):
            cost = model_cost(make().eval(), torch.empty(1, 3, 224, 224))
        rows[key] = {"name": name, "params": cost.params, "macs": cost.macs}
    base, se = rows["resnet50"], rows["se_resnet50"]
    for row in rows.values():
        of = rows[
            "resnet101"
            if "101" in row["name"] or row is rows["se_resnet101"]
            else "resnet50"
        ]
        row["more_params"], row["more_macs"] = (
            row["params"] / of["params"] - 1,
            row["macs"] / of["macs"] - 1,
        )
    assert (
        0.09 < se["params"] / base["params"] - 1 < 0.11
    )  # the paper, section 4: about 10 %
    evidence.computed("cost", rows)


# ---------------------------------------------------------------- the record


def narrow(channels: int) -> nn.Module:
    return SqueezeExcitation(channels, max(4, channels // 16))


def train_one(
    gated: bool, width: int, epochs: int, batch_size: int, seed: int
) -> dict[str, object]:
    from cnn_lab.data import digits
    from cnn_lab.fit import accuracy, fit, steps

    torch.manual_seed(seed)
    model = ResNet(
        BasicBlock,
        (3, 3, 3),
        10,
        width,
        in_channels=1,
        small_images=True,
        attention=narrow if gated else None,
    )
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4
    )
    total = steps(1200, epochs=epochs, batch_size=batch_size)
    schedule = torch.optim.lr_scheduler.MultiStepLR(
        optimizer, [total // 2, total * 3 // 4]
    )
    history = fit(
        model,
        digits("train"),
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        schedule=schedule,
        seed=seed,
    )
    return {
        "accuracy": accuracy(model, *digits("test")),
        "curve": [epoch["loss"] for epoch in history],
    }


def train_both(
    width: int, epochs: int, batch_size: int, seeds: list[int]
) -> dict[str, object]:
    from cnn_lab.record import interval, paired, repeat

    common = {"width": width, "epochs": epochs, "batch_size": batch_size}
    arms = {"plain": {"gated": False, **common}, "se": {"gated": True, **common}}
    names = {"plain": "ResNet-20", "se": "SE-ResNet-20"}
    cache = (
        Path(__file__).parents[2] / ".cache" / "record" / "squeeze_and_excitation.jsonl"
    )
    results = repeat(train_one, arms, seeds, cache)
    accuracies = {
        arm: [run["accuracy"] for run in runs] for arm, runs in results.items()
    }
    rows = {
        arm: {
            "name": names[arm],
            "accuracy": {**interval(accuracies[arm]), "values": accuracies[arm]},
            "loss": interval([run["curve"][-1] for run in runs]),
            "curve": [run["curve"] for run in runs],
        }
        for arm, runs in results.items()
    }
    pair = {
        "name": "SE-ResNet-20 - ResNet-20",
        **paired(accuracies["se"], accuracies["plain"]),
    }
    return {"seeds": len(seeds), "arms": rows, "paired": {"se": pair}}


@pytest.mark.record
def test_record_a_narrow_resnet_learns_the_digits_with_and_without_gates(
    evidence,
) -> None:
    arguments = {"width": 16, "epochs": 25, "batch_size": 128, "seeds": [0, 1, 2, 3, 4]}
    result = evidence.measured("digits", arguments=arguments, run=train_both)
    assert (
        min(arm["accuracy"]["mean"] for arm in result["arms"].values()) > 0.9
    )  # both learn the digits


# ---------------------------------------------------------------- the bench


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm(
        "Squeeze-and-excitation",
        network=lambda: bench.network(
            lambda channels: SqueezeExcitation(channels, max(4, channels // 16))
        ),
    )


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["se"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ["se"])
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ["se"])
    evidence.measured("time", arguments={}, run=run)
