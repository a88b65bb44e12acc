"""Progressive learning has the sizes and strengths of the paper's table, and resizes as Pillow does."""

import itertools
import math
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_lab import bench, fit
from cnn_site.bench import (
    arguments,
    beside_the_baseline,
    time_beside_the_baseline,
)
from cnn_site.equivalence import FLOAT32_BOUND, difference
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import efficientnet_v2_s
from cnn_techniques.training import (
    Mixup,
    ProgressiveLearning,
    resize_batch,
    set_dropout,
)

# Table 6 of the paper: of the first stage and of the last. What Mixup is for L differs
# between copies of the table and the authors' code, and is left out.
TABLE = {
    "S": {"size": (128, 300), "randaugment": (5, 15), "mixup": (0, 0), "dropout": (0.1, 0.3)},
    "M": {"size": (128, 380), "randaugment": (5, 20), "mixup": (0, 0.2), "dropout": (0.1, 0.4)},
    "L": {"size": (128, 380), "randaugment": (5, 25), "dropout": (0.1, 0.5)},
}  # fmt: skip
EPOCHS, STAGES = 350, 4  # section 5.1


def images(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.rand(shape, generator=generator)


def plan_of(name: str, steps: int = EPOCHS) -> ProgressiveLearning:
    strengths = {k: ends for k, ends in TABLE[name].items() if k != "size"}
    return ProgressiveLearning(steps, TABLE[name]["size"], strengths, STAGES)


DEVICE_CASES = {
    "resize_batch": lambda: (lambda x: resize_batch(x, 9), (images(2, 3, 20, 31),))
}


# ---------------------------------------------------------------- the paper


def test_sizes_and_strengths_of_every_step_are_those_of_algorithm_1(evidence) -> None:
    # A second way: for each stage i, phi_0 + (phi_e - phi_0) i / (M - 1), for N / M steps.
    outputs, steps = {}, 4000
    for name, rows in TABLE.items():
        plan = plan_of(name, steps)
        ours = [plan.at(step) for step in range(steps)]
        for kind, ends in rows.items():
            start, end = (Fraction(str(e)) for e in ends)
            expected = []
            for i in range(STAGES):
                value = start + (end - start) * Fraction(i, STAGES - 1)
                if kind == "size":
                    value = Fraction(math.floor(value + Fraction(1, 2)))
                expected += [float(value)] * (steps // STAGES)
            mine = [s.size if kind == "size" else s.strengths[kind] for s in ours]
            outputs[f"{name}: {kind}"] = (
                torch.tensor(mine, dtype=torch.float64),
                torch.tensor(expected, dtype=torch.float64),
            )
    evidence.equivalent(
        "plan",
        difference(outputs, modes=["4,000 steps", "S, M and L"]),
        reference="algorithm 1 and table 6 of the paper, with exact fractions",
        settings="four stages; Mixup of S and M alone",
    )


@pytest.mark.parametrize("name", list(TABLE))
def test_the_first_and_the_last_stage_are_the_minimum_and_maximum_of_table_6(
    name: str,
) -> None:
    plan = plan_of(name)
    for stage, end in ((plan.stages[0], 0), (plan.stages[-1], 1)):
        assert stage.size == TABLE[name]["size"][end]
        for kind, value in stage.strengths.items():
            assert value == pytest.approx(TABLE[name][kind][end])


def test_the_four_stages_of_350_epochs_have_about_87_each() -> None:
    plan = plan_of("S")
    assert [stage.first for stage in plan.stages] == [0, 88, 175, 263]
    assert [stage.size for stage in plan.stages] == [128, 185, 243, 300]


# ---------------------------------------------------------------- laws of the plan


@pytest.mark.parametrize(("steps", "stages"), [(8, 4), (10, 4), (7, 2), (5, 5), (101, 7)])  # fmt: skip
def test_stages_follow_each_other_and_differ_by_a_step_at_most(
    steps: int, stages: int
) -> None:
    plan = ProgressiveLearning(steps, (10, 90), {"dropout": (0.0, 0.5)}, stages)
    found = [plan.at(step) for step in range(steps)]
    lengths = [len(list(run)) for _, run in itertools.groupby(s.first for s in found)]
    assert len(lengths) == stages
    assert sum(lengths) == steps
    assert max(lengths) - min(lengths) <= 1
    for step, stage in enumerate(found):
        assert stage.first <= step
        assert step == 0 or stage.size >= found[step - 1].size
    for stage in plan.stages:
        assert plan.at(stage.first) is stage
        assert stage.first == 0 or plan.at(stage.first - 1) is not stage
    assert (found[0].size, found[-1].size) == (10, 90)


def test_strengths_may_stay_and_may_fall() -> None:
    plan = ProgressiveLearning(6, (8, 8), {"a": (0.3, 0.3), "b": (1.0, -1.0)}, 3)
    assert [stage.size for stage in plan.stages] == [8, 8, 8]
    assert [stage.strengths["a"] for stage in plan.stages] == [0.3, 0.3, 0.3]
    assert [stage.strengths["b"] for stage in plan.stages] == [1.0, 0.0, -1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ProgressiveLearning(8, (4, 8), {}, 1), "stages=1, steps=8"),
        (lambda: ProgressiveLearning(3, (4, 8), {}), "stages=4, steps=3"),
        (lambda: ProgressiveLearning(8, (0, 8), {}), r"sizes=\(0, 8\)"),
        (lambda: ProgressiveLearning(8, (4, 8), {"a": (0.0, math.inf)}), "a: .*inf"),
        (lambda: ProgressiveLearning(8, (4, 8), {}).at(-1), "0 to 7, got -1"),
        (lambda: ProgressiveLearning(8, (4, 8), {}).at(8), "0 to 7, got 8"),
        (lambda: resize_batch(torch.rand(3, 4, 5), 2), r"got \(3, 4, 5\)"),
        (lambda: resize_batch(torch.rand(1, 3, 0, 5), 2), r"got \(1, 3, 0, 5\)"),
        (lambda: resize_batch(torch.rand(1, 3, 4, 5), 0), "size=0"),
        (lambda: set_dropout(nn.Dropout(), 1.5), r"p=1\.5"),
        (lambda: set_dropout(nn.Linear(2, 2), 0.5), "Linear has no"),
    ],
)  # fmt: skip
def test_impossible_arguments_are_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ---------------------------------------------------------------- what a stage changes


def pillows(batch: Tensor, height: int, width: int) -> Tensor:
    resized = [
        np.asarray(
            Image.fromarray(channel.numpy()).resize(
                (width, height), Image.Resampling.BILINEAR
            )
        )
        for channel in batch.flatten(0, 1)
    ]
    return torch.tensor(np.stack(resized)).unflatten(0, batch.shape[:2])


def test_images_are_resized_as_pillow_resizes_them(evidence) -> None:
    outputs = {}
    for shape, size, height, width in (
        ((2, 3, 41, 60), 20, 20, 29),
        ((2, 1, 60, 41), 13, 19, 13),
        ((1, 3, 20, 31), 30, 30, 46),  # larger
    ):
        batch = images(*shape)
        expected = pillows(batch, height, width)
        outputs[f"{shape} to {size}"] = (resize_batch(batch, size), expected)
    evidence.equivalent(
        "resize",
        difference(outputs, bound=FLOAT32_BOUND, shape=[2, 3, 41, 60], modes=["smaller", "larger"]),
        reference="PIL.Image.resize",
        settings="mode F, bilinear; float32",
    )  # fmt: skip


def test_means_are_kept_and_fine_noise_is_averaged_away() -> None:
    batch = images(4, 3, 120, 120)
    small = resize_batch(batch, 30)
    torch.testing.assert_close(small.mean(), batch.mean(), rtol=0, atol=2e-3)
    assert small.std() < batch.std() / 3
    plain = F.interpolate(batch, (30, 30), mode="bilinear")
    assert plain.std() > batch.std() / 3  # a fault that would be seen


def test_images_of_the_size_stay_what_they_are() -> None:
    batch = images(2, 3, 20, 31)
    assert resize_batch(batch, 20) is batch
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        resize_batch((255 * batch).byte(), 10)


def test_every_dropout_is_set_and_nothing_else() -> None:
    net = nn.Sequential(
        nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.2)), nn.Dropout2d(0.7)
    )
    assert set_dropout(net, 0.3) == 2
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.3, 0.3]
    assert net[2].p == 0.7
    before = [m.p for m in net.modules() if hasattr(m, "p")]
    with pytest.raises(ValueError, match=r"p=-0\.1"):
        set_dropout(net, -0.1)
    assert [m.p for m in net.modules() if hasattr(m, "p")] == before


def test_a_rate_that_was_set_is_the_share_that_is_dropped() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Dropout(0.9)), torch.ones(100, 100)
    set_dropout(net, 0.25)
    assert (net(x) == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(net.eval()(x), x)


# ---------------------------------------------------------------- what it saves


def test_what_each_stage_of_efficientnet_v2_s_costs(evidence) -> None:
    rows = {}
    with torch.device("meta"):
        network = efficientnet_v2_s().train()
        costs = [
            model_cost(network, torch.empty(2, 3, stage.size, stage.size))
            for stage in plan_of("S").stages
        ]
    for number, (stage, cost) in enumerate(zip(plan_of("S").stages, costs, strict=True), 1):  # fmt: skip
        rows[f"stage_{number}"] = {
            "name": f"{number}",
            "size": stage.size,
            "dropout": stage.strengths["dropout"],
            "randaugment": stage.strengths["randaugment"],
            "macs": cost.macs / 2,
            "saved_bytes": cost.saved_bytes / 2,
        }
    last = rows["stage_4"]
    for row in rows.values():
        row["share"] = row["macs"] / last["macs"]
    evidence.computed("stages", rows)
    mean = sum(row["share"] for row in rows.values()) / len(rows)
    evidence.computed("saved", {"macs": 1 - mean})
    squares = sum(row["size"] ** 2 for row in rows.values()) / 4 / 300**2
    assert mean == pytest.approx(squares, rel=0.05)  # MACs go with the area


# ---------------------------------------------------------------- the bench


ARMS = ["sizes", "fixed", "progressive"]
NAMES = {
    "sizes": "Sizes alone",
    "fixed": "Regularisation alone, at its end",
    "progressive": "Sizes and regularisation",
}
SIZES = (16, 28)
REGULARISED = {"mixup": (0.0, 0.2), "dropout": (0.1, 0.4)}  # of M in table 6
NONE = {"mixup": (0.0, 0.0), "dropout": (0.0, 0.0)}
STEPS = fit.steps(6000, epochs=10, batch_size=bench.BATCH_SIZE)


def bench_plan(key: str) -> ProgressiveLearning:
    sizes = (28, 28) if key == "fixed" else SIZES
    strengths = {"sizes": NONE, "progressive": REGULARISED}.get(
        key, {name: (end, end) for name, (_, end) in REGULARISED.items()}
    )
    return ProgressiveLearning(STEPS, sizes, strengths)


def with_dropout() -> nn.Module:
    """The bench's network, whose weights start as they do without."""
    model = bench.network()
    model.fc = nn.Sequential(nn.Dropout(0.0), model.fc)  # type: ignore[assignment]
    return model


def bench_arm(key: str) -> bench.Arm:
    """An arm, or "sizes 0": an arm that stays in its first stage, to be timed."""
    name, _, fixed = key.partition(" ")
    plan = bench_plan(name)
    steps = itertools.repeat(plan.stages[int(fixed)].first) if fixed else itertools.count()  # fmt: skip

    def staged(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        stage = plan.at(next(steps))
        set_dropout(model, stage.strengths["dropout"])
        x, soft = Mixup(10, stage.strengths["mixup"])(x, y)
        return F.cross_entropy(model(resize_batch(x, stage.size)), soft)

    return bench.Arm(NAMES[name], network=with_dropout, loss=staged)


def time_of_the_run() -> dict:
    """CPU time of a step, the mean of the four stages, over that of the baseline's."""
    times = {}
    for key in ARMS:
        count = 1 if key == "fixed" else len(bench_plan(key).stages)
        parts = time_beside_the_baseline(bench_arm, [f"{key} {i}" for i in range(count)])  # fmt: skip
        ends = [[float(n) for n in part["range"].split(" to ")] for part in parts.values()]  # fmt: skip
        low, high = (sum(end) / count for end in zip(*ends, strict=True))
        times[key] = {
            "name": NAMES[key],
            "ratio": sum(part["ratio"] for part in parts.values()) / count,
            "range": f"{low:.2f} to {high:.2f}",
            "seconds": sum(part["seconds"] for part in parts.values()) / count,
        }
    return times


def test_the_bench_goes_through_the_stages_and_starts_as_the_baseline_does() -> None:
    torch.manual_seed(0)
    plain = bench.network().state_dict()
    torch.manual_seed(0)
    model = with_dropout()
    state = {name.replace("fc.1.", "fc."): v for name, v in model.state_dict().items()}
    assert state.keys() == plain.keys()
    assert all(torch.equal(state[name], plain[name]) for name in plain)
    assert [stage.size for stage in bench_plan("sizes").stages] == [16, 20, 24, 28]
    assert STEPS == 940
    seen: list[int] = []

    def network(images: Tensor) -> Tensor:
        seen.append(images.shape[-1])
        return images.flatten(1)[:, :10]

    dropping = nn.Dropout(0.0)
    network.modules = lambda: iter([dropping])  # type: ignore[attr-defined]
    x, y = torch.randn(2, 1, 28, 28), torch.arange(2)
    arm, rates = bench_arm("progressive"), []
    for _ in range(STEPS):
        arm.loss(network, x, y)  # type: ignore[arg-type]
        rates.append(round(dropping.p, 9))
    assert [(size, len(list(run))) for size, run in itertools.groupby(seen)] == [
        (16, 235),
        (20, 235),
        (24, 235),
        (28, 235),
    ]
    assert list(dict.fromkeys(rates)) == [0.1, 0.2, 0.3, 0.4]
    bench.step(bench_arm("progressive"), 4)()
    timed = bench.step(bench_arm("sizes 3"), 4)
    timed()
    timed()


def test_a_stage_without_regularisation_is_the_plain_loss_of_the_smaller_images() -> (
    None
):
    torch.manual_seed(0)
    model = with_dropout().train()
    x, y = torch.randn(4, 1, 28, 28), torch.arange(4)
    loss = bench_arm("sizes").loss(model, x, y)
    torch.manual_seed(0)
    model = with_dropout().train()
    expected = F.cross_entropy(model(resize_batch(x, 16)), y)
    torch.testing.assert_close(loss, expected)


def test_how_many_macs_the_sizes_of_the_bench_save(evidence) -> None:
    with torch.device("meta"):
        network = bench.network().train()
        macs = [
            model_cost(network, torch.empty(2, 1, stage.size, stage.size)).macs
            for stage in bench_plan("sizes").stages
        ]
    saved = 1 - sum(macs) / (len(macs) * macs[-1])
    assert 0.2 < saved < 0.5
    evidence.computed("saved_on_the_bench", {"macs": saved})


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ARMS)
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    evidence.measured("time", arguments={}, run=time_of_the_run)
