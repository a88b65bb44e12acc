"""The gate is that of the energy's minimum, found by a linear solver; it needs more than one pixel."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from cnn_lab import bench
from cnn_site.bench import (
    arguments,
    beside_the_baseline,
    cost_beside_the_baseline,
    time_beside_the_baseline,
)
from cnn_site.equivalence import compare
from cnn_techniques.attention import SimAM, SqueezeExcitation
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern.resnet import Bottleneck, ResNet

DEVICE_CASES = {"SimAM": lambda: (SimAM(), (torch.randn(2, 64, 9, 7),))}
IMAGES = torch.randn(2, 64, 9, 7, generator=torch.Generator().manual_seed(0))
LOWEST = 1 / (1 + math.exp(-0.5))  # the sigmoid of 1/2


class Minimised(nn.Module):
    """The paper's energy, minimised by a solver instead of by the paper's closed form.

    Of the linear function w x + b, the energy of an entry t is (1 - (w t + b))², the mean
    of (-1 - (w x + b))² over the channel, and λ w². Where its gradient in (w, b) is zero,
    two linear equations hold, in the mean and the mean square of the channel.
    """

    def __init__(self, lambda_: float = 1e-4) -> None:
        super().__init__()
        self.lambda_ = lambda_

    def forward(self, x: Tensor) -> Tensor:
        t = x.double()
        mean = torch.einsum("nchw->nc", t)[:, :, None, None] / t[0, 0].numel()
        variance = torch.var(t, dim=(2, 3), keepdim=True)
        square = variance + mean.square()
        mean, square = mean.expand_as(t), square.expand_as(t)
        left = torch.stack(
            [
                torch.stack([square + t * t + self.lambda_, mean + t], -1),
                torch.stack([mean + t, torch.full_like(t, 2)], -1),
            ],
            -2,
        )
        right = torch.stack([t - mean, torch.zeros_like(t)], -1)
        w, b = torch.linalg.solve(left, right).unbind(-1)
        others = 1 + 2 * (w * mean + b) + w * w * square + 2 * w * b * mean + b * b
        energy = (1 - (w * t + b)).square() + others + self.lambda_ * w * w
        return (t * torch.sigmoid(1 / energy)).to(x)


def exact_energies(channel: Tensor, lambda_: float) -> Tensor:
    """The least energy of every entry, with the sums over the other entries as they stand."""
    t = channel.flatten()
    energies = []
    for index in range(len(t)):
        others = torch.cat([t[:index], t[index + 1 :]])
        share = len(others) ** -0.5
        # One row per square of the sum: its root, linear in (w, b), and its target.
        rows = [torch.stack([others, torch.ones_like(others)], 1) * share]
        rows += [torch.stack([t[index], t.new_tensor(1)])[None]]
        rows += [t.new_tensor([[lambda_**0.5, 0]])]
        targets = [t.new_full((len(others),), -share), t.new_tensor([1, 0])]
        a, y = torch.cat(rows), torch.cat(targets)
        w_b = torch.linalg.lstsq(a, y[:, None]).solution
        energies.append((a @ w_b - y[:, None]).square().sum())
    return torch.stack(energies).reshape(channel.shape)


def gates(block: nn.Module, x: Tensor) -> Tensor:
    return block(x) / x  # (N, C, H, W)


def test_equals_the_minimised_energy(evidence) -> None:
    comparison = compare(SimAM(), Minimised(), IMAGES)
    evidence.equivalent(
        "block",
        comparison,
        reference="the paper's energy, minimised by torch.linalg.solve",
        settings="lambda_=1e-4",
    )


def test_equals_the_minimised_energy_with_the_weight_of_the_imagenet_runs(
    evidence,
) -> None:
    comparison = compare(SimAM(0.1), Minimised(0.1), 3 * IMAGES + 1)
    evidence.equivalent(
        "large",
        comparison,
        reference="the paper's energy, minimised by torch.linalg.solve",
        settings="lambda_=0.1",
    )


def test_one_mean_and_variance_for_all_entries_come_near_those_of_the_others(
    evidence,
) -> None:
    # A channel of M entries has M sets of M - 1 others; the block takes one for all.
    rows = {}
    for size in (4, 7, 14, 28):
        draw = torch.Generator().manual_seed(size)
        x = torch.randn(1, 1, size, size, generator=draw, dtype=torch.float64)
        exact = torch.sigmoid(1 / exact_energies(x[0, 0], 1e-4))
        difference = (gates(SimAM(), x)[0, 0] - exact).abs().max().item()
        rows[f"s{size}"] = {"name": f"{size} × {size}", "difference": difference}
    found = [row["difference"] for row in rows.values()]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.01
    evidence.computed("one_for_all", rows)


def test_no_gate_is_below_the_sigmoid_of_one_half() -> None:
    found = gates(SimAM(), IMAGES)
    assert found.min() >= LOWEST - 1e-6
    assert found.max() < 1


def test_an_entry_at_the_mean_has_the_smallest_gate_on_either_side() -> None:
    row = torch.tensor([-2.0, -1.0, 0.5, 1.0, 2.0, -0.5])
    x = (row + 3).reshape(1, 1, 2, 3)  # no entry is zero
    by_distance = gates(SimAM(), x).flatten()[row.abs().argsort(stable=True)]
    torch.testing.assert_close(by_distance[0::2], by_distance[1::2])
    assert (by_distance[0::2].diff() > 0.01).all()


def test_a_constant_channel_is_scaled_by_the_sigmoid_of_one_half() -> None:
    x = torch.full((1, 3, 5, 5), 2.0)
    torch.testing.assert_close(SimAM()(x), x * LOWEST)


def test_the_largest_gate_of_a_channel_is_that_of_a_single_spike() -> None:
    entries = 16
    x = torch.full((1, 1, 4, 4), 1.0)
    x[..., 2, 3] = 100
    bound = (entries - 1) ** 2 / (4 * entries) + 0.5
    found = gates(SimAM(), x).max().item()
    assert found == pytest.approx(1 / (1 + math.exp(-bound)), abs=1e-6)


def test_a_large_lambda_gives_every_entry_the_smallest_gate() -> None:
    torch.testing.assert_close(SimAM(1e9)(IMAGES), IMAGES * LOWEST)


def test_an_offset_changes_no_gate() -> None:
    x = IMAGES.double()
    torch.testing.assert_close(gates(SimAM(), x + 10), gates(SimAM(), x))


def test_only_lambda_sees_the_scale() -> None:
    x = IMAGES.double()
    torch.testing.assert_close(gates(SimAM(1e-4), x), gates(SimAM(1), 100 * x))
    changed = gates(SimAM(0.1), x) - gates(SimAM(0.1), x / 100)
    assert changed.abs().max() > 0.1


def test_channels_and_images_do_not_see_each_other() -> None:
    changed = IMAGES.clone()
    changed[1, 20] *= 2
    differs = (SimAM(0.1)(changed) - SimAM(0.1)(IMAGES)).abs().amax(dim=(2, 3)) > 1e-4
    assert differs.nonzero().tolist() == [[1, 20]]


def test_moving_the_pixels_moves_the_gates() -> None:
    order = torch.randperm(9 * 7, generator=torch.Generator().manual_seed(1))
    shuffled = IMAGES.flatten(2)[:, :, order].reshape(IMAGES.shape)
    moved = SimAM()(IMAGES).flatten(2)[:, :, order].reshape(IMAGES.shape)
    torch.testing.assert_close(SimAM()(shuffled), moved)


@pytest.mark.parametrize("size", [(1, 2), (7, 5), (32, 32)])
def test_keeps_the_shape_for_any_size(size: tuple[int, int]) -> None:
    assert SimAM()(torch.randn(2, 3, *size)).shape == (2, 3, *size)


def test_has_no_parameters_and_no_state() -> None:
    assert not SimAM().state_dict()


def test_the_gradient_is_that_of_finite_differences() -> None:
    x = IMAGES[:1, :2, :3, :3].double().requires_grad_()
    assert torch.autograd.gradcheck(SimAM(), (x,))


@pytest.mark.parametrize("lambda_", [0.0, -1e-4, math.nan])
def test_refuses_a_lambda_that_is_not_above_zero(lambda_: float) -> None:
    with pytest.raises(ValueError, match=f"above 0, got lambda_={lambda_}"):
        SimAM(lambda_)


@pytest.mark.parametrize("shape", [(2, 64, 1, 1), (64, 8, 8), (1, 64)])
def test_refuses_a_single_pixel_and_inputs_of_another_shape(
    shape: tuple[int, ...],
) -> None:
    with pytest.raises(ValueError, match="two pixels or more, got"):
        SimAM()(torch.zeros(shape))


def test_cost_in_resnet_50(evidence) -> None:
    rows = {}
    networks: dict[str, tuple[str, Callable[[int], nn.Module] | None]] = {
        "resnet50": ("ResNet-50", None),
        "simam_resnet50": ("+ SimAM", lambda channels: SimAM()),
        "se_resnet50": ("+ SE, r = 16", lambda c: SqueezeExcitation(c, c // 16)),
    }
    for key, (title, attention) in networks.items():
        with torch.device("meta"):
            network = ResNet(Bottleneck, (3, 4, 6, 3), attention=attention)
            cost = model_cost(network.eval(), torch.empty(1, 3, 224, 224))
        rows[key] = {
            "name": title,
            "params": cost.params,
            "macs": cost.macs,
            "saved_bytes": cost.saved_bytes,
        }
    for row in rows.values():
        kept = rows["resnet50"]["saved_bytes"]
        row["more_saved_bytes"] = row["saved_bytes"] / kept - 1
    assert rows["simam_resnet50"]["params"] == rows["resnet50"]["params"]
    evidence.computed("cost", rows)


# ---------------------------------------------------------------- the bench


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm("SimAM", network=lambda: bench.network(lambda channels: SimAM()))


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["simam"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ["simam"])
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ["simam"])
    evidence.measured("time", arguments={}, run=run)
