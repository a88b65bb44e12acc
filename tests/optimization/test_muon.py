"""Muon takes torch's steps for matrices and timm's for convolutions, and its updates are nearly orthogonal."""

import copy
import functools
import math
from functools import partial
from typing import Any

import pytest
import timm.optim
import timm.optim.muon
import torch
import torch.utils.flop_counter
from torch import Tensor, nn

from cnn_lab import bench
from cnn_site import race
from cnn_site.parity import compare_steps
from cnn_techniques.modern import resnet50
from cnn_techniques.optimization import AdamW, Muon, newton_schulz

CONVERGING = (15 / 8, -10 / 8, 3 / 8)  # Newton-Schulz of degree 5: f(1) = 1, f'(1) = 0


def path(theta: Tensor, gradients: Tensor, **settings: object) -> Tensor:
    """Where Muon goes when it is given one gradient after the other."""
    weight = nn.Parameter(theta.clone())
    optimizer = Muon([weight], **{"lr": 0.01, "dtype": theta.dtype, **settings})  # type: ignore[arg-type]
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
    return weight.detach()


DEVICE_CASES = {
    "Muon": lambda: (path, (torch.randn(6, 5), torch.randn(5, 6, 5))),
    "newton_schulz": lambda: (newton_schulz, (torch.randn(6, 5),)),
}

OWN = (  # values for everything that a group may set
    {"weight_decay": 0.3, "momentum": 0.8},
    {"weight_decay": 0.1, "lr": 0.02, "betas": (0.8, 0.9)},
    {"weight_decay": 0.2, "lr": 0.02, "ns_steps": 4, "nesterov": False},
)
STATE = {"momentum_buffer": "momentum_buffer"}


def torch_muon(groups: Any, match_rms_adamw: bool, **options: Any) -> Any:
    function = "match_rms_adamw" if match_rms_adamw else None
    return torch.optim.Muon(groups, adjust_lr_fn=function, **options)


def timm_muon(groups: Any, match_rms_adamw: bool, **options: Any) -> Any:
    function = "match_rms_adamw" if match_rms_adamw else "original"
    options |= {"ns_coefficients": "original", "adjust_lr_fn": function}
    return timm.optim.Muon(groups, **options)


@pytest.fixture
def in_float64(monkeypatch) -> None:
    """Both references without the rounding of their iteration to bfloat16."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    function = timm.optim.muon.zeropower_via_newtonschulz
    exact = functools.partial(function, dtype=torch.float64)
    monkeypatch.setattr(timm.optim.muon, "zeropower_via_newtonschulz", exact)


@pytest.mark.parametrize(("nesterov", "match"), [(True, True), (False, False)])
def test_fifty_steps_of_matrices_are_those_of_torch(
    in_float64, nesterov: bool, match: bool
) -> None:
    options = {"lr": 1e-2, "weight_decay": 0.1, "nesterov": nesterov}
    compare_steps(
        functools.partial(Muon, dtype=torch.float64),
        torch_muon,
        options={**options, "match_rms_adamw": match},
        groups=[{}, {}, {**OWN[2], "nesterov": not nesterov}],
        state=STATE,
        only=lambda p: p.ndim == 2,
    )


@pytest.mark.parametrize("nesterov", [True, False])
def test_fifty_steps_of_matrices_are_those_of_torch_in_bfloat16_too(
    evidence, nesterov: bool
) -> None:
    found = compare_steps(
        Muon,
        torch_muon,
        options={"lr": 1e-2, "nesterov": nesterov, "match_rms_adamw": False},
        groups=[{}, {}, {"weight_decay": 0.2}],
        state=STATE,
        only=lambda p: p.ndim == 2,
    )
    if nesterov:
        evidence.equivalent(
            "torch",
            found,
            reference="torch.optim.Muon",
            settings="a matrix; lr 0.01, weight_decay 0.2; both iterate in bfloat16",
        )


@pytest.mark.parametrize(("nesterov", "match"), [(True, True), (False, False)])
def test_fifty_steps_of_convolutions_and_matrices_are_those_of_timm(
    evidence, in_float64, nesterov: bool, match: bool
) -> None:
    options = {"lr": 1e-2, "weight_decay": 0.1, "nesterov": nesterov}
    found = compare_steps(
        functools.partial(Muon, dtype=torch.float64),
        timm_muon,
        options={**options, "match_rms_adamw": match},
        groups=[OWN[0], {}, {**OWN[2], "nesterov": not nesterov}],
        state=STATE,
        only=lambda p: p.ndim > 1,
    )
    if nesterov and match:
        evidence.equivalent(
            "timm",
            found,
            reference="timm.optim.Muon",
            settings='a convolution and a matrix; ns_coefficients="original"; lr 0.01, weight_decay 0.1; both iterate in float64 instead of bfloat16',
        )


@pytest.mark.parametrize("use_muon", [True, False])
def test_fifty_steps_of_all_parameters_are_those_of_timm(
    evidence, in_float64, use_muon: bool
) -> None:
    # without Nesterov: with it, timm's vectors get NAdamW's steps
    found = compare_steps(
        functools.partial(Muon, dtype=torch.float64),
        timm_muon,
        options={"lr": 1e-2, "match_rms_adamw": True, "nesterov": False},
        groups=[OWN[0], OWN[1], {"lr": 0.005} | ({} if use_muon else {"use_muon": False})],
    )  # fmt: skip
    if not use_muon:
        evidence.equivalent(
            "vectors",
            found,
            reference="timm.optim.Muon",
            settings="all parameters, vectors and the last group with AdamW's steps; nesterov=False; lr 0.01; both iterate in float64 instead of bfloat16",
        )


def test_the_update_is_that_of_the_page_written_with_singular_vectors() -> None:
    # momentum as a sum over all gradients, U V^T from the SVD; enough steps to converge
    torch.manual_seed(0)
    gradients = torch.randn(6, 5, 3, dtype=torch.float64)
    theta = torch.randn(5, 3, dtype=torch.float64)
    expected = theta.clone()
    B = torch.zeros_like(theta)
    for gradient in gradients:
        B = 0.95 * B + gradient  # not a mean: the length of a matrix plays no part
        U, _, Vh = torch.linalg.svd(gradient + 0.95 * B, full_matrices=False)
        expected = expected - 0.01 * 0.1 * expected - 0.01 * (5 / 3) ** 0.5 * U @ Vh
    weight = nn.Parameter(theta.clone())
    optimizer = Muon([weight], lr=0.01, weight_decay=0.1, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        exact = functools.partial(newton_schulz, coefficients=CONVERGING)
        patch.setattr(
            "cnn_techniques.optimization.muon.newton_schulz",
            lambda G, steps, eps: exact(G, 40),
        )
        for gradient in gradients:
            weight.grad = gradient
            optimizer.step()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3)])
def test_with_converging_coefficients_it_is_the_product_of_the_singular_vectors(
    shape: tuple[int, int],
) -> None:
    torch.manual_seed(0)
    G = torch.randn(shape, dtype=torch.float64)
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    found = newton_schulz(G, 60, CONVERGING)
    torch.testing.assert_close(found, U @ Vh, rtol=0, atol=1e-12)
    torch.testing.assert_close(  # the polar factor a third way: G (G^T G)^(-1/2)
        found @ found.mT @ found, found, rtol=0, atol=1e-12
    )


def test_it_acts_on_singular_values_and_leaves_singular_vectors() -> None:
    torch.manual_seed(0)
    G = torch.randn(6, 4, dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    s = S / S.square().sum().sqrt()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    torch.testing.assert_close(
        newton_schulz(G), U @ torch.diag(s) @ Vh, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(32, 32), (16, 144), (144, 16), (10, 64)])
def test_the_update_is_nearly_orthogonal(
    dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    U, _, Vh = torch.linalg.svd(
        torch.randn(shape, dtype=torch.float64, generator=generator),
        full_matrices=False,
    )
    S = torch.logspace(0, -1.5, min(shape), dtype=torch.float64)  # all above 0.01 |S|
    assert (S / S.norm()).min() > 0.01
    X = newton_schulz((U @ torch.diag(S) @ Vh).to(dtype)).double()
    found = torch.linalg.svdvals(X)
    assert found.min() > 0.65
    assert found.max() < 1.17
    wide = X if shape[0] <= shape[1] else X.mT
    assert ((wide @ wide.mT).diag() - 1).abs().mean() < 0.35


def test_its_bounds_are_those_that_its_docstring_names() -> None:
    s = torch.logspace(-2, 0, 100_000, dtype=torch.float64)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    assert s.min() > 0.68
    assert s.max() < 1.14


def test_the_filters_of_a_convolution_become_nearly_orthonormal() -> None:
    torch.manual_seed(0)
    theta = torch.zeros(8, 4, 3, 3, dtype=torch.float64)
    gradient = torch.randn_like(theta)
    moved = path(theta, gradient[None], lr=1.0)
    rows = -moved.flatten(1)  # a filter for each output channel, 4 * 3 * 3 numbers
    found = torch.linalg.svdvals(rows)
    assert len(found) == 8
    assert found.min() > 0.68
    assert found.max() < 1.14
    torch.testing.assert_close(rows, newton_schulz(gradient.flatten(1)))


def test_the_length_of_a_step_follows_the_shape_of_the_matrix() -> None:
    torch.manual_seed(0)
    for rows, columns in ((8, 8), (2, 32), (32, 2)):
        theta = torch.zeros(rows, columns, dtype=torch.float64)
        gradient = torch.randn_like(theta)[None]
        longest = torch.linalg.matrix_norm(newton_schulz(gradient[0]), 2).item()
        plain, matched = (
            path(theta, gradient, match_rms_adamw=match) for match in (False, True)
        )
        assert torch.linalg.matrix_norm(plain, 2).item() == pytest.approx(
            0.01 * longest * max(1, rows / columns) ** 0.5
        )
        # X has min(rows, columns) singular values near 1, so a mean square near 1 / max
        assert matched.square().mean().sqrt().item() == pytest.approx(
            0.01 * 0.2, rel=0.2
        )


def test_the_path_does_not_depend_on_the_scale_of_the_loss() -> None:
    torch.manual_seed(0)
    theta = torch.randn(7, 4, dtype=torch.float64)
    gradients = torch.randn(30, 7, 4, dtype=torch.float64)
    torch.testing.assert_close(
        path(theta, 1e4 * gradients), path(theta, gradients), rtol=1e-9, atol=1e-12
    )


def test_a_rotation_of_inputs_and_outputs_rotates_the_path() -> None:
    torch.manual_seed(0)
    theta = torch.randn(4, 4, dtype=torch.float64)
    gradients = torch.randn(9, 4, 4, dtype=torch.float64)
    Q, R = torch.linalg.qr(torch.randn(2, 4, 4, dtype=torch.float64)).Q
    torch.testing.assert_close(
        path(Q @ theta @ R, Q @ gradients @ R),
        Q @ path(theta, gradients) @ R,
        rtol=1e-9,
        atol=1e-12,
    )


def test_a_matrix_of_zeros_moves_by_decay_alone() -> None:
    theta = torch.ones(3, 4, dtype=torch.float64)
    after = path(theta, torch.zeros(1, 3, 4).double(), weight_decay=0.5)
    torch.testing.assert_close(after, theta * (1 - 0.01 * 0.5), rtol=1e-15, atol=0)
    assert torch.equal(newton_schulz(0 * theta), 0 * theta)


@pytest.mark.parametrize(
    "shape", [(5,), (), (6, 1, 3, 3), (1, 6), (6, 1)], ids=str
)  # the third is a depthwise convolution
def test_what_is_no_matrix_gets_adamws_steps(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    theta = torch.randn(shape, dtype=torch.float64)
    gradients = torch.randn(5, *shape, dtype=torch.float64)
    weight = nn.Parameter(theta.clone())
    settings: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.95), "weight_decay": 0.1}
    optimizer = AdamW([weight], eps=1e-7, **settings)
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
    assert torch.equal(path(theta, gradients, **settings), weight.detach())


def test_the_first_and_last_layer_can_be_given_to_adamw() -> None:
    torch.manual_seed(0)
    theta = torch.randn(4, 3, dtype=torch.float64)
    gradients = torch.randn(5, 4, 3, dtype=torch.float64)
    weight = nn.Parameter(theta.clone())
    group = {"params": [weight], "use_muon": False, "lr": 3e-4}
    optimizer = Muon([group])
    for gradient in gradients:
        weight.grad = gradient
        optimizer.step()
    assert set(optimizer.state[weight]) == {"step", "exp_avg", "exp_avg_sq"}
    assert (weight - theta).abs().max() < 5 * 3e-4 * 1.01


def test_a_rate_of_zero_changes_no_weight() -> None:
    assert torch.equal(
        path(torch.ones(2, 3), torch.randn(3, 2, 3), lr=0.0), torch.ones(2, 3)
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"lr": -1e-3}, r"lr of 0 or more, got -0\.001"),
        ({"momentum": 1.0}, r"momentum from 0 to below 1, got 1\.0"),
        ({"momentum": math.nan}, "got nan"),
        ({"weight_decay": -0.1}, r"weight_decay of 0 or more, got -0\.1"),
        ({"ns_steps": 0}, "ns_steps of 1 to 99, got 0"),
        ({"ns_steps": 2.5}, r"got 2\.5"),
        ({"eps": 0.0}, r"eps above 0, got 0\.0"),
        ({"betas": (1.0, 0.99)}, r"got \(1\.0, 0\.99\)"),
        ({"dtype": torch.int32}, r"floating-point dtype, got torch\.int32"),
    ],
)
def test_values_out_of_range_are_refused_as_defaults_and_in_groups(
    settings: dict[str, object], told: str
) -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match=told):
        Muon([weight], **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=told):
        Muon([{"params": [weight], **settings}])


def test_what_it_cannot_optimise_is_refused() -> None:
    table = nn.Embedding(10, 3, sparse=True)
    optimizer = Muon(table.parameters())
    table(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(
        TypeError, match=r"dense gradient, got layout torch\.sparse_coo"
    ):
        optimizer.step()
    with pytest.raises(TypeError, match=r"torch\.complex64"):
        Muon([nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))])
    with pytest.raises(ValueError, match="empty"):
        Muon([])
    with pytest.raises(ValueError, match=r"expected a matrix .* got \(2, 3, 4\)"):
        newton_schulz(torch.ones(2, 3, 4))
    with pytest.raises(ValueError, match="steps=-1"):
        newton_schulz(torch.ones(2, 3), steps=-1)


def stepped(kind: type, groups: int = 1, **settings: object) -> torch.optim.Optimizer:
    weights = [nn.Parameter(torch.ones(4, 4)) for _ in range(groups)]
    optimizer: torch.optim.Optimizer = kind(
        [{"params": [weight]} for weight in weights], lr=0.5, **settings
    )
    sum(weight.sum() for weight in weights).backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("giver", [Muon, torch.optim.Muon, timm.optim.Muon])
def test_saved_states_of_muon_are_loaded_as_they_are(giver: type) -> None:
    given, optimizer = stepped(giver, momentum=0.7), stepped(Muon, match_rms_adamw=True)
    for _ in range(2):
        optimizer.load_state_dict(copy.deepcopy(given.state_dict()))
    (group,), (other,) = optimizer.param_groups, given.param_groups
    assert (group["lr"], group["momentum"]) == (0.5, 0.7)
    assert group["match_rms_adamw"] is (giver is not Muon)
    buffers = [o.state[o.param_groups[0]["params"][0]] for o in (optimizer, given)]
    assert torch.equal(*(state["momentum_buffer"] for state in buffers))
    assert set(group) <= {*stepped(Muon).param_groups[0]}
    optimizer.step()
    assert other is given.param_groups[0]


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
        (AdamW, {}),
        (timm.optim.Lion, {}),
    ],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_state_of_another_optimizer_or_of_other_groups_is_refused_as_a_whole(
    kind: type, settings: dict[str, object], groups: int
) -> None:
    optimizer = stepped(Muon)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=f"state of 1 groups .* got {groups} groups"):
        optimizer.load_state_dict(stepped(kind, groups, **settings).state_dict())
    with pytest.raises(ValueError, match="got 2 groups"):
        optimizer.load_state_dict(stepped(Muon, 2).state_dict())
    assert str(optimizer.state_dict()) == str(before)


def iteration_macs(theta: Tensor) -> int:
    """Of five steps: X X^T and B X of n m^2 each, A A of m^3, with m the smaller side."""
    rows, columns = len(theta), theta.numel() // len(theta)
    m, n = min(rows, columns), max(rows, columns)
    return 5 * (2 * m * m * n + m**3)


def test_the_count_of_products_is_that_of_the_matrices_that_are_multiplied() -> None:
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        newton_schulz(torch.randn(6, 2, 3, 3).flatten(1))
    assert counter.get_total_flops() == 2 * iteration_macs(torch.empty(6, 2, 3, 3))


def test_the_state_is_one_number_for_every_parameter_of_a_matrix(evidence) -> None:
    rows = {}
    for key, name, kind in (("adamw", "AdamW", AdamW), ("muon", "Muon", Muon)):
        with torch.device("meta"):  # sizes without numbers
            net = resnet50()
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        optimizer = kind(net.parameters(), lr=0.1)
        optimizer.step()
        kept = {
            p: sum(v.numel() for v in state.values() if isinstance(v, Tensor))
            for p, state in optimizer.state.items()
        }
        matrix, vector = (
            {kept[p] // p.numel() for p in net.parameters() if (p.ndim > 1) is large}
            for large in (True, False)
        )
        rows[key] = {
            "name": name,
            "per_weight": matrix.pop(),
            "per_vector": vector.pop(),
            "resnet50_bytes": 4 * sum(kept.values()),
            "resnet50_macs": sum(
                iteration_macs(p) for p, s in optimizer.state.items() if "step" not in s
            ),
        }
        assert not matrix
        assert not vector
    evidence.computed("cost", rows)
    assert [row["per_weight"] for row in rows.values()] == [2, 1]
    assert [row["per_vector"] for row in rows.values()] == [2, 2]


# ---------------------------------------------------------------- the race


RATES = (2e-3, 6e-3, 2e-2, 6e-2, 2e-1)  # fixed before any run


def race_arm(rate: float) -> bench.Arm:
    return bench.Arm(
        "Muon", optimizer=lambda m: Muon(m.parameters(), lr=rate, weight_decay=0.1)
    )


@pytest.mark.record
def test_record_the_race(evidence) -> None:
    arguments = race.arguments(RATES, "optimization/muon")
    evidence.measured("race", arguments=arguments, run=partial(race.race, race_arm))


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(race.time_of_a_step, race_arm)
    evidence.measured("time", arguments={}, run=run)
