"""Stochastic depth drops what torchvision drops, keeps the mean, and is gone in evaluation."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision import ops

from cnn_lab import bench
from cnn_site.bench import arguments, beside_the_baseline, cost_beside_the_baseline
from cnn_site.equivalence import compare
from cnn_techniques.modern.resnet import BasicBlock
from cnn_techniques.training import StochasticDepth, linear_drop_rates

NO_DEVICE_CASES = "each device draws by itself; in evaluation nothing is computed"


def images(n: int = 16) -> Tensor:
    return torch.randn(n, 4, 9, 7, generator=torch.Generator().manual_seed(0))


def branches(drop) -> nn.Sequential:
    """Three residual blocks, with a layer `drop(p)` at the end of each branch."""
    rates = [1 / 6, 1 / 3, 1 / 2]
    return nn.Sequential(*[BasicBlock(4, 4, 1, lambda _, p=p: drop(p)) for p in rates])


@pytest.mark.parametrize("mode", ["row", "batch"])
def test_outputs_and_gradients_of_residual_blocks_are_those_of_torchvision(
    evidence, mode: str
) -> None:
    ours = branches(partial(StochasticDepth, per_image=mode == "row"))
    theirs = branches(partial(ops.StochasticDepth, mode=mode))
    comparison = compare(ours, theirs, images())
    evidence.equivalent(
        mode,
        comparison,
        reference="torchvision.ops.StochasticDepth",
        settings=f'mode="{mode}"; three residual blocks, the same seed',
    )


@pytest.mark.parametrize("per_image", [True, False])
def test_the_paper_scales_the_tested_branch_and_this_one_the_trained_branch(
    per_image: bool,
) -> None:
    # section 3 a second way: b f(x) in training and p_l f(x) in the test
    p_l, f = 0.6, images()
    drop = StochasticDepth(1 - p_l, per_image)
    torch.manual_seed(0)
    ours = drop(f)
    torch.manual_seed(0)
    count = len(f) if per_image else 1
    b = torch.empty(count, 1, 1, 1).bernoulli_(p_l)
    torch.testing.assert_close(p_l * ours, b * f)
    torch.testing.assert_close(p_l * drop.eval()(f), p_l * f)


def test_images_are_dropped_whole_and_the_others_scaled() -> None:
    torch.manual_seed(0)
    f = images(64)
    out = StochasticDepth(0.4)(f)
    dropped = (out == 0).flatten(1).all(dim=1)
    assert 0 < dropped.sum() < 64
    torch.testing.assert_close(out[~dropped], f[~dropped] / 0.6)


def test_a_batch_is_dropped_as_one() -> None:
    torch.manual_seed(0)
    drop, f = StochasticDepth(0.4, per_image=False), images()
    seen = {bool((drop(f) == 0).all()) for _ in range(20)}
    assert seen == {True, False}
    for _ in range(20):
        out = drop(f)
        assert (out == 0).all() or torch.allclose(out, f / 0.6)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_the_mean_stays_and_the_variance_is_that_of_the_draw(p: float) -> None:
    torch.manual_seed(0)
    n = 200_000
    out = StochasticDepth(p)(torch.ones(n, 1))
    sd = math.sqrt(p / (1 - p))
    assert out.mean().item() == pytest.approx(1, abs=5 * sd / math.sqrt(n))
    assert out.std().item() == pytest.approx(sd, rel=0.03)
    assert (out == 0).double().mean().item() == pytest.approx(p, abs=0.006)


def test_neighbours_in_the_batch_are_drawn_apart() -> None:
    torch.manual_seed(0)
    gone = StochasticDepth(0.5)(torch.ones(100_000, 1))[:, 0] == 0
    both = (gone[1:] & gone[:-1]).double().mean().item()
    assert both == pytest.approx(0.25, abs=0.01)


def test_in_evaluation_and_with_a_rate_of_0_the_input_itself_comes_back() -> None:
    f = images()
    assert StochasticDepth(0.9).eval()(f) is f
    assert StochasticDepth(0.0)(f) is f


def test_a_dropped_branch_gets_no_gradient() -> None:
    f = torch.ones(64, 3, requires_grad=True)
    torch.manual_seed(0)
    out = StochasticDepth(0.5)(f)
    out.sum().backward()
    assert torch.equal(f.grad, out.detach())  # 0 where dropped, else 1 / (1 - p)


def test_tensors_of_any_dimension_pass() -> None:
    torch.manual_seed(0)
    for shape in ((16,), (16, 5), (16, 5, 8, 3)):
        out = StochasticDepth(0.5)(torch.ones(shape)).reshape(16, -1)
        assert set(out[:, 0].tolist()) == {0.0, 2.0}
        assert (out == out[:, :1]).all()


def test_rates_grow_evenly_to_the_last() -> None:
    assert linear_drop_rates(4, 0.2) == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert linear_drop_rates(1, 0.5) == [0.5]
    assert linear_drop_rates(3, 0) == [0, 0, 0]
    for blocks in (3, 16, 54):  # p_l as equation 4 has it, with p_L = 0.5
        p_l = [1 - block / blocks * (1 - 0.5) for block in range(1, blocks + 1)]
        found = linear_drop_rates(blocks, 0.5)
        assert [1 - rate for rate in found] == pytest.approx(p_l)
        assert sum(p_l) == pytest.approx((3 * blocks - 1) / 4)  # blocks that are left


@pytest.mark.parametrize("p", [-0.1, 1.0, math.nan])
def test_rates_that_are_none_are_refused(p: float) -> None:
    with pytest.raises(ValueError, match=f"p={p}"):
        StochasticDepth(p)
    with pytest.raises(ValueError, match=f"last={p}"):
        linear_drop_rates(3, p)
    with pytest.raises(ValueError, match="blocks=0"):
        linear_drop_rates(0, 0.5)


# ---------------------------------------------------------------- the bench


ARMS = ["image", "batch", "few"]
NAMES = {
    "image": "Stochastic depth, per image",
    "batch": "Stochastic depth, per batch",
    "few": "Stochastic depth, per image",
}


def bench_network(per_image: bool) -> nn.Module:
    """The bench's network; its three branches are dropped by the paper's linear rule."""
    rates = iter(linear_drop_rates(3, last=0.5))
    return bench.network(lambda channels: StochasticDepth(next(rates), per_image))


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm(
        NAMES[key],
        network=partial(bench_network, per_image=key != "batch"),
        handicap="few images" if key == "few" else "none",
    )


def test_the_rates_on_the_bench_are_in_the_order_of_the_blocks() -> None:
    found = [
        m.p for m in bench_network(True).modules() if isinstance(m, StochasticDepth)
    ]
    assert found == pytest.approx([1 / 6, 1 / 3, 1 / 2])


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ARMS[:2]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ARMS)
    evidence.measured("bench", arguments=arguments(), run=run)
