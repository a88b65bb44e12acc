"""Batch norm is torch's in training, evaluation and running statistics, its gradients by hand are autograd's."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_lab import bench
from cnn_lab.update import AccumulatedStep
from cnn_site.bench import arguments, beside_the_baseline
from cnn_site.equivalence import compare, difference
from cnn_site.laws import gradient_reaches_every_parameter
from cnn_techniques.evaluation import model_cost
from cnn_techniques.optimization import BatchNorm2d
from cnn_techniques.optimization.batch_normalization import _BatchNormTraining

DEVICE_CASES = {
    "BatchNorm2d": lambda: (BatchNorm2d(6), (torch.randn(3, 6, 9, 7),)),
    "all batches weigh the same": lambda: (
        BatchNorm2d(6, momentum=None),
        (torch.randn(3, 6, 9, 7),),
    ),
}
IMAGES = torch.randn(4, 6, 9, 7, generator=torch.Generator().manual_seed(0))


def values(*shape: int, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize(
    ("title", "options"),
    [
        ("block", {}),
        ("cumulative", {"momentum": None}),
        ("slow", {"momentum": 0.01, "eps": 1e-3}),
        ("no affine", {"affine": False}),
        ("no statistics", {"track_running_stats": False}),
    ],
)
def test_equals_torch(evidence, title: str, options: dict[str, object]) -> None:
    ours = BatchNorm2d(6, **options)  # type: ignore[arg-type]
    reference = nn.BatchNorm2d(6, **options)  # type: ignore[arg-type]
    comparison = compare(ours, reference, IMAGES)
    if title in ("block", "cumulative"):
        evidence.equivalent(
            title,
            comparison,
            reference="torch.nn.BatchNorm2d",
            settings="momentum=None" if options else "defaults",
        )


@pytest.mark.parametrize("momentum", [0.1, 1.0, 0.0, None])
def test_fifty_batches_of_unequal_size_leave_torchs_statistics(
    evidence, momentum: float | None
) -> None:
    ours = BatchNorm2d(3, momentum=momentum).double()
    theirs = nn.BatchNorm2d(3, momentum=momentum).double()
    for step in range(50):
        x = 5 * values(2 + step % 3, 3, 4, 1 + step % 5, seed=step) + 2
        if step == 25:  # states are exchanged
            swapped = copy.deepcopy(ours.state_dict())
            ours.load_state_dict(theirs.state_dict())
            theirs.load_state_dict(swapped)
        for norm in (ours, theirs):
            norm.train(step % 7 != 3)(x)  # some in evaluation
    outputs = {
        name: (value, theirs.state_dict()[name])
        for name, value in ours.state_dict().items()
        if momentum != 0.0 or "running" not in name
    }
    assert int(ours.num_batches_tracked) == 43  # type: ignore[arg-type]
    comparison = difference(
        outputs, modes=["43 training batches, 7 in evaluation; states exchanged"]
    )
    if momentum == 0.1:
        evidence.equivalent(
            "statistics",
            comparison,
            reference="torch.nn.BatchNorm2d",
            settings="defaults; batches of 2 to 4 images of 4 to 20 pixels",
        )


def test_the_gradients_by_hand_are_those_of_autograd_through_algorithm_1(
    evidence,
) -> None:
    x, gamma, beta = values(3, 4, 5, 2), values(4, seed=1), values(4, seed=2)
    weights = values(3, 4, 5, 2, seed=3)

    def written_out(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        columns = x.movedim(1, 0).flatten(1)  # (C, m)
        var, mu = torch.var_mean(columns, dim=1, correction=0, keepdim=True)
        y = gamma[:, None] * (columns - mu) / (var + 1e-3).sqrt() + beta[:, None]
        return y.view(4, 3, 5, 2).movedim(0, 1)

    def by_hand(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        return _BatchNormTraining.apply(x, gamma, beta, 1e-3)[0]

    found = []
    for function in (by_hand, written_out):
        leaves = [t.clone().requires_grad_() for t in (x, gamma, beta)]
        y = function(*leaves)
        found.append((y.detach(), torch.autograd.grad((y * weights).sum(), leaves)))
    (ours, mine), (theirs, expected) = found
    comparison = difference(
        {"y": (ours, theirs)},
        {n: (mine[i], expected[i]) for i, n in enumerate(("x", "gamma", "beta"))},
        shape=x.shape,
        modes=["training"],
    )
    evidence.equivalent(
        "autograd",
        comparison,
        reference="autograd through algorithm 1",
        settings="eps=0.001, x, gamma and beta drawn",
    )


def test_the_gradients_by_hand_are_those_of_finite_differences() -> None:
    inputs = [values(3, 2, 2, 3), values(2, seed=1), values(2, seed=2)]
    for leaf in inputs:
        leaf.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *leaves: _BatchNormTraining.apply(*leaves, 1e-3)[0], inputs
    )


def test_the_four_lines_of_the_gradient_are_one_projection() -> None:
    # what is left of dy is orthogonal to a constant and, but for eps, to x_hat
    x, dy = values(4, 3, 5, 6).requires_grad_(), values(4, 3, 5, 6, seed=1)
    norm = BatchNorm2d(3, eps=1e-12).double()
    (dx,) = torch.autograd.grad((norm(x) * dy).sum(), x)
    columns, g = (t.detach().movedim(1, 0).flatten(1) for t in (x, dy))
    sd = columns.std(dim=1, correction=0, keepdim=True)
    x_hat = (columns - columns.mean(dim=1, keepdim=True)) / sd
    part = g.mean(1, keepdim=True) + x_hat * (g * x_hat).mean(1, keepdim=True)
    found = dx.movedim(1, 0).flatten(1)
    torch.testing.assert_close(found, (g - part) / sd, rtol=1e-9, atol=1e-12)
    assert found.sum(1).abs().max() < 1e-12
    assert (found * x_hat).sum(1).abs().max() < 1e-9


def test_a_second_derivative_is_refused() -> None:
    x = values(3, 2, 2, 3).requires_grad_()
    y = BatchNorm2d(2).double()(x)
    (slope,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()


def test_in_training_each_channel_gets_mean_beta_and_deviation_gamma() -> None:
    norm = BatchNorm2d(3, eps=1e-12).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 2.0, 3.0]))  # type: ignore[union-attr]
        norm.bias.copy_(torch.tensor([-1.0, 0.0, 7.0]))  # type: ignore[union-attr]
    y = norm(100 * values(5, 3, 4, 6) - 30).movedim(1, 0).flatten(1)
    torch.testing.assert_close(y.mean(1), norm.bias)
    torch.testing.assert_close(y.std(1, correction=0), norm.weight)


def test_neither_scale_nor_shift_of_a_channel_is_seen_in_training() -> None:
    norm, x = BatchNorm2d(3, eps=1e-12).double(), values(4, 3, 5, 6)
    factors = torch.tensor([1e-2, 3.0, 1e3], dtype=torch.float64).view(3, 1, 1)
    torch.testing.assert_close(norm(factors * x - 5), norm(x))


def test_a_bias_in_front_of_it_has_no_effect_and_no_gradient() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(2, 3, 3).double(), BatchNorm2d(3).double()
    x = values(4, 2, 8, 7)
    before = norm(conv(x))
    before.square().mul(values(3, 1, 1)).sum().backward()
    assert conv.bias is not None and conv.bias.grad is not None
    assert conv.bias.grad.abs().max() < 1e-10 < conv.weight.grad.abs().max()  # type: ignore[union-attr]
    with torch.no_grad():
        conv.bias += 10
    torch.testing.assert_close(norm(conv(x)), before)


def test_weights_twice_as_large_get_half_of_the_gradient() -> None:
    # section 3.3; eps must be small beside the variance
    slopes = []
    for scale in (1.0, 2.0):
        weight = (scale * values(3, 2, 3, 3)).requires_grad_()
        y = BatchNorm2d(3, eps=1e-12).double()(F.conv2d(values(4, 2, 8, 7), weight))
        slopes += torch.autograd.grad((y * values(4, 3, 6, 5, seed=1)).sum(), weight)
    torch.testing.assert_close(slopes[1], slopes[0] / 2)


def test_in_training_an_image_depends_on_the_others_and_in_evaluation_it_does_not() -> (
    None
):
    norm, x = BatchNorm2d(3).double(), values(4, 3, 5, 6)
    for training in (True, False):
        norm.train(training)
        alone, together = norm(x[:2])[0], norm(x)[0]
        assert torch.equal(alone, together) is not training


def test_in_evaluation_it_is_one_scale_and_one_shift_per_channel_and_learns_nothing() -> (
    None
):
    norm = BatchNorm2d(3).double()
    norm(5 * values(4, 3, 5, 6) + 2)
    state = copy.deepcopy(norm.state_dict())
    norm.eval()
    x = values(2, 3, 4, 4, seed=1)
    shift, unit = norm(torch.zeros_like(x)), norm(torch.ones_like(x))
    torch.testing.assert_close(norm(x), (unit - shift) * x + shift)
    assert all(torch.equal(state[n], v) for n, v in norm.state_dict().items())


def test_the_mean_over_all_batches_is_the_papers_population_estimate() -> None:
    # algorithm 2: E over batches of mu, and m / (m - 1) times E of the variances
    batches = [3 * values(4, 2, 3, 3, seed=s) + 1 for s in range(6)]
    norm = BatchNorm2d(2, momentum=None).double()
    for batch in batches:
        norm(batch)
    m = 4 * 3 * 3
    columns = torch.stack([b.movedim(1, 0).flatten(1) for b in batches])
    means = columns.mean(dim=2)
    variances = (columns - means[..., None]).square().mean(dim=2)
    torch.testing.assert_close(norm.running_mean, means.mean(0))
    torch.testing.assert_close(norm.running_var, m / (m - 1) * variances.mean(0))


def test_what_is_left_of_the_first_statistics_shrinks_by_the_momentum_each_step() -> (
    None
):
    norm, x = BatchNorm2d(1, momentum=0.2).double(), values(2, 1, 3, 3)
    for _ in range(10):
        norm(x)
    left = 0.8**10
    expected = left * 1 + (1 - left) * x.var()
    assert norm.running_var is not None
    assert norm.running_var.item() == pytest.approx(expected.item(), rel=1e-12)


def test_without_statistics_nothing_is_saved_and_evaluation_is_training() -> None:
    norm, x = BatchNorm2d(3, track_running_stats=False), values(4, 3, 5, 6).float()
    assert list(norm.state_dict()) == ["weight", "bias"]
    assert torch.equal(norm(x), norm.eval()(x))


def test_gradients_reach_every_parameter() -> None:
    norm = BatchNorm2d(6)
    with torch.no_grad():
        norm.bias += 1  # type: ignore[misc, operator]
    gradient_reaches_every_parameter(norm, IMAGES)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num_features": 0}, "num_features=0"),
        ({"num_features": 3, "eps": 0.0}, r"eps=0\.0"),
        ({"num_features": 3, "eps": math.nan}, "eps=nan"),
        ({"num_features": 3, "momentum": 1.5}, r"momentum=1\.5"),
        ({"num_features": 3, "momentum": math.nan}, "momentum=nan"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, float], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        BatchNorm2d(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, 4, 5, 5), (3, 5, 5), (2, 3)])
def test_inputs_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 3, H, W\), got"):
        BatchNorm2d(3)(torch.zeros(shape))


def test_one_value_per_channel_is_refused_in_training_before_anything_changes() -> None:
    norm = BatchNorm2d(3)
    with pytest.raises(ValueError, match=r"2 values or more per channel, got \(1, 3"):
        norm(torch.ones(1, 3, 1, 1))
    assert norm.num_batches_tracked == 0
    assert norm.eval()(torch.ones(1, 3, 1, 1)).isfinite().all()


class _Formula(BatchNorm2d):
    """Algorithm 1 left to autograd."""

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(dim=(0, 2, 3), keepdim=True)
        var = centred.square().mean(dim=(0, 2, 3), keepdim=True)
        x_hat = centred / (var + self.eps).sqrt()
        return self.weight.view(-1, 1, 1) * x_hat + self.bias.view(-1, 1, 1)  # type: ignore[union-attr]


def test_the_gradients_by_hand_keep_the_input_and_little_else(evidence) -> None:
    rows = {}
    for key, name, norm in (
        ("ours", "Gradients by hand", BatchNorm2d(64)),
        ("formula", "The formula, through autograd", _Formula(64)),
        ("torch", "`torch.nn.BatchNorm2d`", nn.BatchNorm2d(64)),
    ):
        conv = nn.Conv2d(3, 64, 1, bias=False)  # whose output is what the norm gets
        images = torch.zeros(8, 3, 28, 28)
        kept = [
            model_cost(nn.Sequential(conv, *more).train(), images).saved_bytes
            for more in ([], [norm])
        ]
        rows[key] = {"name": name, "maps": (kept[1] - kept[0]) / (8 * 64 * 28 * 28 * 4)}
    evidence.computed("memory", rows)
    assert rows["ours"]["maps"] == pytest.approx(1, abs=0.01)
    assert rows["formula"]["maps"] > 1.9


# ---------------------------------------------------------------- the bench


ARMS = ["none", "of4"]


def without_norm() -> nn.Module:
    """The bench's network, with nothing in place of every batch norm."""
    model = bench.network()
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
    return model


def bench_arm(key: str) -> bench.Arm:
    if key == "none":
        return bench.Arm("No norm", network=without_norm)
    # The same steps of 64 images, whose gradient is added up over sixteen parts. No cost
    # is recorded: memory and time of such a step are those of accumulation.
    return bench.Arm("Statistics of 4 images", update=lambda: AccumulatedStep(16))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ARMS)
    evidence.measured("bench", arguments=arguments(), run=run)
