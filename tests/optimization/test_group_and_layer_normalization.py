"""Group and layer norm are torch's, and no image of a batch sees another."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import convnext

from cnn_lab import bench
from cnn_site.bench import (
    arguments,
    beside_the_baseline,
    cost_beside_the_baseline,
    time_beside_the_baseline,
)
from cnn_site.equivalence import compare
from cnn_site.laws import gradient_reaches_every_parameter
from cnn_techniques.optimization import GroupNorm, LayerNorm, LayerNorm2d

DEVICE_CASES = {
    "GroupNorm": lambda: (GroupNorm(4, 12), (torch.randn(2, 12, 9, 7),)),
    "LayerNorm": lambda: (LayerNorm([9, 7]), (torch.randn(2, 12, 9, 7),)),
    "LayerNorm2d": lambda: (LayerNorm2d(12), (torch.randn(2, 12, 9, 7),)),
}
IMAGES = torch.randn(3, 12, 9, 7, generator=torch.Generator().manual_seed(0))
NORMS: dict[str, Callable[[], nn.Module]] = {
    "4 groups": lambda: GroupNorm(4, 12),
    "1 group": lambda: GroupNorm(1, 12),
    "12 groups": lambda: GroupNorm(12, 12),
    "whole images": lambda: LayerNorm([12, 9, 7]),
    "places": lambda: LayerNorm2d(12),
}


def drawn(norm: nn.Module) -> nn.Module:
    """With a scale and a shift that are not 1 and 0, in float64."""
    draw = torch.Generator().manual_seed(1)
    for p in norm.double().parameters():
        p.data = torch.randn(p.shape, generator=draw, dtype=torch.float64)
    return norm


@pytest.mark.parametrize("groups", [1, 2, 4, 12])
def test_group_norm_equals_torch(evidence, groups: int) -> None:
    comparison = compare(GroupNorm(groups, 12), nn.GroupNorm(groups, 12), IMAGES)
    if groups == 4:
        evidence.equivalent(
            "group",
            comparison,
            reference="torch.nn.GroupNorm",
            settings="4 groups of 3 channels",
        )


@pytest.mark.parametrize("shape", [7, [9, 7], [12, 9, 7]])
def test_layer_norm_equals_torch(evidence, shape: int | list[int]) -> None:
    comparison = compare(LayerNorm(shape), nn.LayerNorm(shape), IMAGES)
    if shape == [12, 9, 7]:
        evidence.equivalent(
            "layer",
            comparison,
            reference="torch.nn.LayerNorm",
            settings="normalized_shape=(12, 9, 7)",
        )


def test_layer_norm_over_channels_equals_torchvisions(evidence) -> None:
    comparison = compare(
        LayerNorm2d(12, eps=1e-6), convnext.LayerNorm2d([12], eps=1e-6), IMAGES
    )
    evidence.equivalent(
        "places",
        comparison,
        reference="torchvision.models.convnext.LayerNorm2d",
        settings="eps=1e-6, as in ConvNeXt",
    )


@pytest.mark.parametrize("shape", [(5, 12), (5, 12, 7), (2, 12, 3, 4, 5)])
def test_group_norm_equals_torch_for_any_number_of_places(
    shape: tuple[int, ...],
) -> None:
    x = torch.randn(shape, dtype=torch.float64)
    reference = drawn(nn.GroupNorm(3, 12))
    ours = GroupNorm(3, 12).double()
    ours.load_state_dict(reference.state_dict())
    torch.testing.assert_close(ours(x), reference(x))


def test_without_scale_and_shift_they_equal_torch_too() -> None:
    x = IMAGES.double()
    pairs = [
        (GroupNorm(4, 12, affine=False), nn.GroupNorm(4, 12, affine=False)),
        (
            LayerNorm([9, 7], elementwise_affine=False),
            nn.LayerNorm([9, 7], elementwise_affine=False),
        ),
    ]
    for ours, reference in pairs:
        assert not list(ours.parameters())
        torch.testing.assert_close(ours(x), reference(x))


def test_group_norm_is_equations_1_2_6_and_7_index_by_index() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 2, 3, generator=draw, dtype=torch.float64)
    norm = drawn(GroupNorm(3, 6, eps=1e-3))
    C, G = 6, 3
    expected = torch.empty_like(x)
    for n, c, h, w in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        same = [k for k in range(C) if k // (C // G) == c // (C // G)]
        entries = [
            x[n, k, i, j].item() for k in same for i in (0, 1) for j in (0, 1, 2)
        ]
        mu = math.fsum(entries) / len(entries)
        sigma = math.sqrt(
            math.fsum((e - mu) ** 2 for e in entries) / len(entries) + 1e-3
        )
        x_hat = (x[n, c, h, w] - mu) / sigma
        expected[n, c, h, w] = norm.weight[c] * x_hat + norm.bias[c]
    torch.testing.assert_close(norm(x), expected)


@pytest.mark.parametrize("name", NORMS)
def test_an_image_is_normalised_alone_as_in_any_batch(name: str) -> None:
    norm, x = drawn(NORMS[name]()), IMAGES.double()
    together = norm(x)
    for n, image in enumerate(x):
        torch.testing.assert_close(norm(image[None])[0], together[n])
    torch.testing.assert_close(norm(x.flip(0)), together.flip(0))


@pytest.mark.parametrize("name", NORMS)
def test_no_gradient_flows_from_one_image_to_another(name: str) -> None:
    norm, x = drawn(NORMS[name]()), IMAGES.double().requires_grad_()
    (slope,) = torch.autograd.grad(norm(x)[0].sin().sum(), x)
    assert slope[0].abs().min() > 0
    assert not slope[1:].any()


@pytest.mark.parametrize("name", NORMS)
def test_evaluation_is_training(name: str) -> None:
    norm = NORMS[name]()
    assert torch.equal(norm.train()(IMAGES), norm.eval()(IMAGES))


def test_one_group_is_layer_norm_over_the_image_with_one_scale_per_channel() -> None:
    group, layer = drawn(GroupNorm(1, 12)), LayerNorm([12, 9, 7]).double()
    with torch.no_grad():
        for name in ("weight", "bias"):
            per_channel = getattr(group, name)[:, None, None]
            getattr(layer, name).copy_(per_channel.expand(12, 9, 7))
    x = IMAGES.double()
    torch.testing.assert_close(group(x), layer(x))


def test_as_many_groups_as_channels_are_instance_norm() -> None:
    group, instance = drawn(GroupNorm(12, 12)), nn.InstanceNorm2d(12, affine=True)
    instance.double().load_state_dict(group.state_dict())
    x = IMAGES.double()
    torch.testing.assert_close(group(x), instance(x))


def test_with_one_place_layer_norm_over_channels_is_group_norm_with_one_group() -> None:
    x = torch.randn(3, 12, 1, 1, dtype=torch.float64)
    group, places = drawn(GroupNorm(1, 12)), drawn(LayerNorm2d(12))
    torch.testing.assert_close(places(x), group(x))


@pytest.mark.parametrize("groups", [1, 3, 12])
def test_an_images_scale_is_not_seen_and_a_channels_only_beside_other_channels(
    groups: int,
) -> None:
    norm, x = GroupNorm(groups, 12, eps=1e-12).double(), IMAGES.double()
    torch.testing.assert_close(norm(100 * x - 3), norm(x))
    factors = torch.linspace(1, 5, 12, dtype=torch.float64).view(12, 1, 1)
    apart = (norm(factors * x) - norm(x)).abs().max()
    assert bool(apart < 1e-6) is (groups == 12)


def test_each_group_has_mean_0_and_deviation_1() -> None:
    norm = GroupNorm(3, 12, eps=1e-12).double()
    groups = norm(7 * IMAGES.double() + 2).view(3, 3, -1)
    torch.testing.assert_close(groups.mean(2), torch.zeros(3, 3).double())
    torch.testing.assert_close(
        groups.std(2, correction=0), torch.ones(3, 3, dtype=torch.float64)
    )


def test_the_output_of_layer_norm_over_channels_does_not_depend_on_other_places() -> (
    None
):
    norm, x = drawn(LayerNorm2d(12)), IMAGES.double()
    torch.testing.assert_close(norm(x)[:, :, 2:4, 1:5], norm(x[:, :, 2:4, 1:5]))
    assert not torch.allclose(
        GroupNorm(1, 12).double()(x)[:, :, 2:4, 1:5],
        GroupNorm(1, 12).double()(x[:, :, 2:4, 1:5]),
    )


def test_in_memory_of_another_order_it_is_the_same() -> None:
    x = IMAGES.double()
    for norm in (drawn(GroupNorm(4, 12)), drawn(LayerNorm2d(12))):
        torch.testing.assert_close(
            norm(x.to(memory_format=torch.channels_last)), norm(x)
        )


@pytest.mark.parametrize("name", NORMS)
def test_gradients_reach_every_parameter(name: str) -> None:
    norm = NORMS[name]()
    with torch.no_grad():
        norm.bias += 1  # type: ignore[misc, operator]
    gradient_reaches_every_parameter(norm, IMAGES)


@pytest.mark.parametrize(
    ("groups", "channels"), [(5, 12), (0, 12), (-3, 12), (3, 0), (24, 12)]
)
def test_groups_that_do_not_divide_the_channels_are_refused(
    groups: int, channels: int
) -> None:
    with pytest.raises(
        ValueError, match=rf"num_groups={groups}, num_channels={channels}"
    ):
        GroupNorm(groups, channels)


@pytest.mark.parametrize("eps", [0.0, -1e-5, math.nan, math.inf])
def test_an_eps_that_is_not_above_zero_is_refused(eps: float) -> None:
    for make in (partial(GroupNorm, 3, 12), partial(LayerNorm, 12)):
        with pytest.raises(ValueError, match=f"eps={eps}"):
            make(eps=eps)


def test_sizes_below_one_are_refused() -> None:
    for shape in (0, [], [3, 0], -2):
        with pytest.raises(ValueError, match="expected sizes of 1 or more, got"):
            LayerNorm(shape)


def test_inputs_of_another_shape_are_refused() -> None:
    cases: list[tuple[nn.Module, tuple[int, ...], str]] = [
        (GroupNorm(3, 12), (2, 9, 5, 5), r"\(N, 12, \.\.\.\), got \(2, 9"),
        (GroupNorm(3, 12), (12,), r"\(N, 12, \.\.\.\), got \(12,\)"),
        (LayerNorm([5, 6]), (2, 6, 5), r"\(\.\.\., 5, 6\), got \(2, 6, 5\)"),
        (LayerNorm2d(12), (2, 5, 5, 12), r"\(N, 12, H, W\), got \(2, 5"),
        (LayerNorm2d(12), (2, 12, 5), r"\(N, 12, H, W\), got \(2, 12, 5\)"),
    ]
    for norm, shape, told in cases:
        with pytest.raises(ValueError, match=told):
            norm(torch.zeros(shape))


# ---------------------------------------------------------------- the bench


ARMS = ["groups", "layer"]


def with_groups(groups: int) -> nn.Module:
    """The bench's network, with group norm in place of every batch norm."""
    model = bench.network()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, GroupNorm(groups, child.num_features))
    return model


def bench_arm(key: str) -> bench.Arm:
    if key == "groups":
        return bench.Arm("Group norm, 8 groups", network=lambda: with_groups(8))
    return bench.Arm("Layer norm, 1 group", network=lambda: with_groups(1))


def test_on_the_bench_every_batch_norm_is_replaced_and_nothing_else() -> None:
    torch.manual_seed(0)
    before = bench.network()
    torch.manual_seed(0)
    after = with_groups(8)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in after.modules())
    replaced = [m for m in after.modules() if isinstance(m, GroupNorm)]
    assert len(replaced) == sum(isinstance(m, nn.BatchNorm2d) for m in before.modules())
    for (n, p), (m, q) in zip(
        before.named_parameters(), after.named_parameters(), strict=True
    ):
        assert n == m
        assert torch.equal(p, q)


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ARMS))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ARMS)
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ARMS)
    evidence.measured("time", arguments={}, run=run)
