"""Accumulated gradients are the large batch's, clipped ones are torch's, also where a norm is zero or no number."""

import math
from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_lab import bench
from cnn_lab.fit import AcceleratorLike
from cnn_site.bench import (
    arguments,
    beside_the_baseline,
    cost_beside_the_baseline,
    time_beside_the_baseline,
)
from cnn_site.equivalence import difference
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import resnet50
from cnn_techniques.optimization import (
    GroupNorm,
    accumulate_gradients,
    clip_gradient_norm,
    gradient_norm,
)


def clipped(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two gradients, clipped together."""
    leaves = [nn.Parameter(torch.zeros_like(t)) for t in (a, b)]
    for leaf, gradient in zip(leaves, (a, b), strict=True):
        leaf.grad = gradient.clone()
    norm = clip_gradient_norm(leaves, 1.0)
    return norm, leaves[0].grad, leaves[1].grad  # type: ignore[return-value]


DEVICE_CASES = {"clip": lambda: (clipped, (torch.randn(6, 5), torch.randn(7)))}


def network(norm: Callable[[int], nn.Module] = lambda c: GroupNorm(2, c)) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), norm(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, stride=2), norm(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    return net.double()


def data(count: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(count, 1, 8, 6, generator=draw, dtype=torch.float64)
    return images, torch.randint(5, (count,), generator=draw)


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}


# ---------------------------------------------------------------- accumulation


@pytest.mark.parametrize(
    "sizes", [(23,), (8, 8, 7), (1, 20, 2), (16, 4, 2, 1), (1,) * 23]
)
def test_the_gradient_is_that_of_the_large_batch_however_it_is_split(
    evidence, sizes: tuple[int, ...]
) -> None:
    images, labels = data(23)
    net = network()
    loss = F.cross_entropy(net(images), labels)
    loss.backward()
    expected = gradients(net)
    net.zero_grad()
    micro_batches = list(zip(images.split(sizes), labels.split(sizes), strict=True))
    mean = accumulate_gradients(lambda x, y: F.cross_entropy(net(x), y), micro_batches)
    found = gradients(net)
    comparison = difference(
        {"loss": (mean, loss.detach())},
        {name: (found[name], expected[name]) for name in expected},
        shape=images.shape,
        modes=["training"],
    )
    if len(sizes) == 4:
        evidence.equivalent(
            "accumulation",
            comparison,
            reference="one backward pass of the whole batch",
            settings="23 images in parts of 16, 4, 2 and 1; group norm",
        )


def test_where_labels_are_ignored_the_counts_are_those_of_the_labels_that_count() -> (
    None
):
    images, _ = data(6)
    net = nn.Conv2d(1, 3, 3, padding=1).double()
    draw = torch.Generator().manual_seed(2)
    labels = torch.randint(3, (6, 8, 6), generator=draw)
    labels[torch.rand(6, 8, 6, generator=draw) < 0.7] = -100  # not labelled
    labels[3] = -100  # an image without a label: a mean over nothing
    whole = F.cross_entropy(net(images), labels)
    whole.backward()
    expected = gradients(net)
    micro_batches = list(zip(images.split(1), labels.split(1), strict=True))
    counts = [int((y != -100).sum()) for _, y in micro_batches]
    assert 0 in counts

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x), y)

    net.zero_grad()
    mean = accumulate_gradients(loss, micro_batches, counts)
    torch.testing.assert_close(mean, whole.detach())  # and not NaN
    for name, value in gradients(net).items():
        torch.testing.assert_close(value, expected[name])
    net.zero_grad()  # and by images it is another gradient
    rows = [m for m, n in zip(micro_batches, counts, strict=True) if n]
    accumulate_gradients(loss, rows)
    assert not torch.allclose(gradients(net)["weight"], expected["weight"], rtol=0.01)


def test_the_mean_of_means_is_another_gradient_unless_the_parts_are_equal() -> None:
    images, labels = data(24)
    net = network()
    F.cross_entropy(net(images), labels).backward()
    expected = gradients(net)["0.weight"]
    apart = {}
    for sizes in ((8, 8, 8), (11, 12, 1)):
        net.zero_grad()
        for x, y in zip(images.split(sizes), labels.split(sizes), strict=True):
            (F.cross_entropy(net(x), y) / len(sizes)).backward()
        apart[sizes] = (gradients(net)["0.weight"] - expected).norm() / expected.norm()
    assert apart[8, 8, 8] < 1e-12
    assert apart[11, 12, 1] > 0.1


def test_batch_norm_does_not_add_up_and_group_norm_does() -> None:
    images, labels = data(24)
    for norm, same in ((nn.BatchNorm2d, False), (lambda c: GroupNorm(2, c), True)):
        net = network(norm)
        F.cross_entropy(net(images), labels).backward()
        expected = gradients(net)["0.weight"]
        net.zero_grad()
        parts = list(zip(images.split(8), labels.split(8), strict=True))
        accumulate_gradients(lambda x, y, net=net: F.cross_entropy(net(x), y), parts)
        apart = (gradients(net)["0.weight"] - expected).norm() / expected.norm()
        assert bool(apart < 1e-12) is same


def test_it_adds_to_the_gradient_that_is_there() -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.full((2,), 5.0)
    mean = accumulate_gradients(
        lambda x: (weight * x).sum(1).mean(), [(torch.ones(3, 2),), (torch.ones(1, 2),)]
    )
    assert weight.grad.tolist() == [6.0, 6.0]
    assert mean == 2.0
    assert not mean.requires_grad


def test_one_graph_is_in_memory_at_a_time() -> None:
    alive, most = 0, 0
    weight = nn.Parameter(torch.ones(1))

    class Noted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            return x.clone()

        @staticmethod
        def backward(ctx, slope: Tensor) -> Tensor:
            nonlocal alive
            alive -= 1
            return slope

    parts = [(torch.ones(2),)] * 5
    accumulate_gradients(lambda x: Noted.apply(weight * x).mean(), parts)
    assert (alive, most) == (0, 1)


@pytest.mark.parametrize(
    ("parts", "counts", "told"),
    [
        (0, None, r"0 micro-batches, and not all 0, got \[\]"),
        (2, [0, 0], r"got \[0, 0\]"),
        (2, [3, -1], r"got \[3, -1\]"),
        (2, [3], r"got \[3\]"),
        (2, [math.nan, 1], r"got \[nan, 1\]"),
    ],
)
def test_counts_that_give_no_mean_are_refused_before_anything_is_computed(
    parts: int, counts: list[float] | None, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        accumulate_gradients(
            lambda x: pytest.fail("computed"), [(torch.ones(2),)] * parts, counts
        )


def test_memory_by_the_size_of_the_micro_batches(evidence) -> None:
    rows = {}
    for size in (64, 16, 4, 1):
        with torch.device("meta"):
            images = torch.empty(size, 3, 224, 224)
            cost = model_cost(resnet50().train(), images)
        rows[f"of{size}"] = {
            "name": f"{size}",
            "parts": 64 // size,
            "saved_bytes": cost.saved_bytes,
        }
    evidence.computed("memory", rows)


# ---------------------------------------------------------------- clipping

DRAW = torch.Generator().manual_seed(3)
GRADIENTS = {
    "ordinary": [torch.randn(4, 3, generator=DRAW), torch.randn(7, generator=DRAW)],
    "short": [torch.full((4, 3), 1e-4), torch.full((7,), -1e-4)],
    "zero": [torch.zeros(4, 3), torch.zeros(7)],
    "one infinite": [torch.tensor([1.0, math.inf]), torch.tensor([2.0])],
    "one minus infinite": [torch.tensor([1.0, -math.inf]), torch.tensor([2.0])],
    "one NaN": [torch.tensor([1.0, math.nan]), torch.tensor([2.0])],
    "huge": [torch.full((3,), 1e300, dtype=torch.float64), torch.ones(2)],
    "some missing": [torch.randn(5, generator=DRAW), None],
    "all missing": [None, None],
}


def holding(values: Iterable[Tensor | None]) -> list[nn.Parameter]:
    leaves = []
    for value in values:
        kept = torch.zeros(2) if value is None else value
        leaf = nn.Parameter(torch.zeros_like(kept.double()))
        leaf.grad = None if value is None else value.double().clone()
        leaves.append(leaf)
    return leaves


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, math.inf])
@pytest.mark.parametrize("max_norm", [1.0, 0.0, 1e3, math.inf])
@pytest.mark.parametrize("case", GRADIENTS)
def test_clipped_gradients_and_the_norm_are_those_of_torch(
    case: str, max_norm: float, norm_type: float
) -> None:
    ours, theirs = holding(GRADIENTS[case]), holding(GRADIENTS[case])
    found = clip_gradient_norm(ours, max_norm, norm_type)
    expected = nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=0, equal_nan=True)
    for mine, other in zip(ours, theirs, strict=True):
        if other.grad is None:
            assert mine.grad is None
        else:
            torch.testing.assert_close(
                mine.grad, other.grad, rtol=1e-14, atol=0, equal_nan=True
            )


def test_of_a_network_they_are_those_of_torch(evidence) -> None:
    images, labels = data(8)
    outputs = {}
    for norm_type in (2.0, math.inf):
        found = []
        for clip in (clip_gradient_norm, nn.utils.clip_grad_norm_):
            net = network()
            (100 * F.cross_entropy(net(images), labels)).backward()
            norm = clip(net.parameters(), 0.5, norm_type)
            found.append({"norm": norm, **gradients(net)})
        assert found[0]["norm"] > 0.5
        outputs |= {
            f"p = {norm_type}, {name}": (value, found[1][name])
            for name, value in found[0].items()
        }
    evidence.equivalent(
        "clipping",
        difference(outputs, shape=images.shape, modes=["p = 2", "p = inf"]),
        reference="torch.nn.utils.clip_grad_norm_",
        settings="max_norm=0.5; norms of 0, infinity and NaN are equal too",
    )


@pytest.mark.parametrize("norm_type", [1.0, 2.0, math.inf])
def test_algorithm_1_of_the_paper_on_one_long_vector(norm_type: float) -> None:
    leaves = holding(GRADIENTS["ordinary"])
    g = torch.cat([leaf.grad.flatten() for leaf in leaves])  # type: ignore[union-attr]
    if norm_type == math.inf:
        length = g.abs().max().item()
    else:
        length = g.abs().pow(norm_type).sum().item() ** (1 / norm_type)
    for threshold in (0.5 * length, 2 * length):
        own = holding(GRADIENTS["ordinary"])
        expected = threshold / length * g if length >= threshold else g
        assert clip_gradient_norm(own, threshold, norm_type).item() == pytest.approx(
            length
        )
        found = torch.cat([leaf.grad.flatten() for leaf in own])  # type: ignore[union-attr]
        torch.testing.assert_close(found, expected, rtol=2e-6, atol=0)  # torch's 1e-6


def test_the_direction_stays_and_the_norm_is_the_bound() -> None:
    leaves = holding(GRADIENTS["ordinary"])
    before = torch.cat([p.grad.flatten() for p in leaves])  # type: ignore[union-attr]
    clip_gradient_norm(leaves, 0.1)
    after = torch.cat([p.grad.flatten() for p in leaves])  # type: ignore[union-attr]
    torch.testing.assert_close(F.cosine_similarity(before, after, dim=0).item(), 1.0)
    assert gradient_norm(leaves).item() == pytest.approx(0.1, rel=1e-5)
    clip_gradient_norm(leaves, 0.1)  # clipped twice is clipped once
    again = torch.cat([p.grad.flatten() for p in leaves])  # type: ignore[union-attr]
    torch.testing.assert_close(again, after, rtol=2e-5, atol=0)  # 1e-6 of the bound


def test_a_gradient_within_the_bound_is_not_touched() -> None:
    leaves = holding(GRADIENTS["ordinary"])
    before = [leaf.grad.clone() for leaf in leaves]  # type: ignore[union-attr]
    length = gradient_norm(leaves).item()
    for bound in (length + 1e-5, math.inf):
        clip_gradient_norm(leaves, bound)
        for leaf, value in zip(leaves, before, strict=True):
            assert torch.equal(leaf.grad, value)  # type: ignore[arg-type]


def test_a_norm_that_is_not_finite_is_refused_if_asked_for_and_nothing_changes() -> (
    None
):
    for case in ("one infinite", "one NaN"):
        leaves = holding(GRADIENTS[case])
        before = [leaf.grad.clone() for leaf in leaves]  # type: ignore[union-attr]
        with pytest.raises(RuntimeError, match=r"finite norm .*, got (inf|nan)"):
            clip_gradient_norm(leaves, 1.0, error_if_nonfinite=True)
        for leaf, value in zip(leaves, before, strict=True):
            torch.testing.assert_close(leaf.grad, value, equal_nan=True)


def test_one_tensor_and_a_generator_will_do() -> None:
    (leaf,) = holding([torch.tensor([3.0, 4.0])])
    assert clip_gradient_norm(leaf, 1.0) == 5.0
    assert gradient_norm(leaf).item() == pytest.approx(1.0, rel=1e-6)
    leaf.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert clip_gradient_norm((p for p in [leaf]), 1.0) == 5.0
    assert gradient_norm(leaf).item() == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("value", [-1.0, math.nan])
def test_bounds_and_orders_that_are_none_are_refused_before_anything_changes(
    value: float,
) -> None:
    leaves = holding(GRADIENTS["ordinary"])
    before = leaves[0].grad.clone()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=f"max_norm={value}"):
        clip_gradient_norm(leaves, value)
    for order in (value, 0.0):
        with pytest.raises(ValueError, match=f"norm_type={order}"):
            clip_gradient_norm(leaves, 1.0, order)
    assert torch.equal(leaves[0].grad, before)  # type: ignore[arg-type]


# ---------------------------------------------------------------- the bench


def clip_at_1(
    loss: Callable[[], Tensor],
    optimizer: torch.optim.Optimizer,
    accelerator: AcceleratorLike,
) -> None:
    value = loss()
    optimizer.zero_grad(set_to_none=True)
    accelerator.backward(value)
    clip_gradient_norm([p for g in optimizer.param_groups for p in g["params"]], 1.0)
    optimizer.step()


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm("Clipped at a norm of 1", update=lambda: clip_at_1)


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["clip"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ["clip"])
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ["clip"])
    evidence.measured("time", arguments={}, run=run)
