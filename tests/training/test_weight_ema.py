"""The moving average is torch's, without its bias that of Adam's section 7.2, and batch norms get statistics that fit."""

import copy
import io
import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import swa_utils

from cnn_lab import bench
from cnn_site.bench import arguments, beside_the_baseline, cost_beside_the_baseline
from cnn_site.equivalence import difference
from cnn_techniques.training import WeightEMA, recompute_batch_norms

NO_DEVICE_CASES = "it changes a network in place: the tests below run it as it is used"


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    ]
    return nn.Sequential(*layers).double()


class Training:
    """Steps of SGD on noise; what follows the network is updated after each."""

    def __init__(self) -> None:
        self.net = network()
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=0.3)
        self.generator = torch.Generator().manual_seed(1)

    def go(self, steps: int, *followers: nn.Module) -> None:
        for _ in range(steps):
            x = torch.randn(8, 3, 7, 5, generator=self.generator, dtype=torch.float64)
            y = torch.randint(5, (8,), generator=self.generator)
            self.optimizer.zero_grad()
            F.cross_entropy(self.net(x + 1), y).backward()
            self.optimizer.step()
            for follower in followers:
                follower.update_parameters(self.net)


def torchs(net: nn.Module, decay: float, use_buffers: bool) -> nn.Module:
    average = swa_utils.get_ema_multi_avg_fn(decay)
    return swa_utils.AveragedModel(net, multi_avg_fn=average, use_buffers=use_buffers)


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """All that is saved, as it is now, but the counts of batches."""
    state = model.state_dict().items()
    return {n: v.clone() for n, v in state if "num_batches" not in n}


@pytest.mark.parametrize("use_buffers", [True, False])
def test_fifty_steps_are_those_of_torch_and_states_can_be_exchanged(
    evidence, use_buffers: bool
) -> None:
    training, outputs = Training(), {}
    ours = WeightEMA(training.net, 0.9, use_buffers=use_buffers)
    theirs = torchs(training.net, 0.9, use_buffers)
    for half in (1, 2):
        training.go(25, ours, theirs)
        expected = tensors(theirs)
        for name, value in tensors(ours).items():
            outputs[f"{name} after {25 * half}"] = (value, expected[name])
        if half == 1:  # each goes on from the other's state
            file = io.BytesIO()
            torch.save([ours.state_dict(), theirs.state_dict()], file)
            file.seek(0)
            mine, others = torch.load(file, weights_only=True)
            ours = WeightEMA(network(), 0.9, use_buffers=use_buffers)
            theirs = torchs(network(), 0.9, use_buffers)
            ours.load_state_dict(others)
            theirs.load_state_dict(mine)
    x = torch.randn(4, 3, 7, 5, dtype=torch.float64)
    outputs["outputs"] = (ours.eval()(x), theirs.eval()(x).detach())
    comparison = difference(
        outputs, modes=["50 steps, states exchanged both ways after 25"]
    )
    name = "averaged" if use_buffers else "copied"
    evidence.equivalent(
        name,
        comparison,
        reference="torch.optim.swa_utils.AveragedModel",
        settings=f"get_ema_multi_avg_fn(0.9), {use_buffers=}; without batch norm's "
        "counts of batches, which torch averages as integers",
    )


def test_without_its_bias_it_is_the_average_of_adams_section_7_2() -> None:
    # a second way: from zero, theta = beta theta + (1 - beta) theta_t, then / (1 - beta^t)
    training, beta = Training(), 0.95
    ours = WeightEMA(training.net, beta, debias=True)
    zero = [torch.zeros_like(p) for p in training.net.parameters()]
    for t in range(1, 31):
        training.go(1, ours)
        now = training.net.parameters()
        zero = [
            beta * a + (1 - beta) * p.detach() for a, p in zip(zero, now, strict=True)
        ]
        for a, own in zip(zero, ours.module.parameters(), strict=True):
            torch.testing.assert_close(own.data, a / (1 - beta**t))


def weights_of_steps(steps: int, decay: float, debias: bool) -> Tensor:
    """How much the weights after each step count in the average, read off a network of one number."""
    found = []
    for own in range(steps):
        net = nn.Linear(1, 1, bias=False).double()
        mean = WeightEMA(net, decay, debias)
        for step in range(steps):
            nn.init.constant_(net.weight, float(step == own))
            mean.update_parameters(net)
        found.append(mean.module.weight.item())
    return torch.tensor(found, dtype=torch.float64)


def test_every_step_counts_by_its_age_and_the_first_ones_only_with_the_bias_for_more() -> (
    None
):
    ages = torch.arange(11, -1, -1, dtype=torch.float64)
    plain, debiased = (weights_of_steps(12, 0.8, debias) for debias in (False, True))
    torch.testing.assert_close(plain[1:], 0.2 * 0.8 ** ages[1:])
    assert plain[0].item() == pytest.approx(0.8**11)  # five times 0.2 * 0.8^11
    torch.testing.assert_close(debiased, 0.2 * 0.8**ages / (1 - 0.8**12))
    for shares in (plain, debiased):
        assert shares.sum().item() == pytest.approx(1)


def test_a_long_average_without_bias_is_the_plain_mean() -> None:
    torch.testing.assert_close(
        weights_of_steps(10, 1 - 1e-9, debias=True),
        torch.full((10,), 0.1, dtype=torch.float64),
    )


def test_a_decay_of_0_is_the_network_itself() -> None:
    training = Training()
    mean = WeightEMA(training.net, 0.0)
    training.go(3, mean)
    for own, theirs in zip(mean.module.state_dict().values(), training.net.state_dict().values(), strict=True):  # fmt: skip
        assert torch.equal(own, theirs)


def test_noise_about_a_point_is_averaged_away_by_the_known_factor() -> None:
    # independent noise: variance (1 - beta) / (1 + beta) of that of one step
    torch.manual_seed(0)
    net = nn.Linear(4000, 1, bias=False).double()
    mean = WeightEMA(net, 0.9)
    for _ in range(100):
        nn.init.normal_(net.weight)
        mean.update_parameters(net)
    assert mean.module.weight.var().item() == pytest.approx(0.1 / 1.9, rel=0.1)


def test_counts_are_copied_and_statistics_averaged_or_copied() -> None:
    for use_buffers in (True, False):
        training = Training()
        mean = WeightEMA(training.net, 0.9, use_buffers=use_buffers)
        training.go(5, mean)
        own, norm = mean.module[1], training.net[1]
        assert own.num_batches_tracked == norm.num_batches_tracked == 5
        assert torch.equal(own.running_var, norm.running_var) != use_buffers


def test_the_network_and_its_training_are_not_changed() -> None:
    alone, followed = Training(), Training()
    mean = WeightEMA(followed.net, 0.9)
    alone.go(4)
    followed.go(4, mean)
    for a, b in zip(alone.net.parameters(), followed.net.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not any(p.requires_grad for p in mean.parameters())
    assert all(p.requires_grad for p in followed.net.parameters())


def test_it_may_be_kept_in_another_precision() -> None:
    training = Training()
    mean = WeightEMA(training.net.half(), 0.9).float()
    mean.update_parameters(training.net)
    assert {p.dtype for p in mean.parameters()} == {torch.float32}


def test_a_weight_that_two_layers_share_is_averaged_once() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double()
    net[1].weight = net[0].weight
    mean = WeightEMA(net, 0.9)
    mean.update_parameters(net)
    before = net[0].weight.detach().clone()
    nn.init.zeros_(net[0].weight)
    mean.update_parameters(net)
    torch.testing.assert_close(mean.module[1].weight.data, 0.9 * before)


@pytest.mark.parametrize("decay", [-0.1, 1.0, math.nan])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"decay={decay}"):
        WeightEMA(network(), decay)


def test_another_network_is_refused_before_anything_is_changed() -> None:
    mean = WeightEMA(network(), 0.9)
    before = copy.deepcopy(mean.state_dict())
    wider = network()
    wider[5] = nn.Linear(4, 6)
    for other in (wider, nn.Sequential(network()), nn.Linear(4, 5)):
        with pytest.raises(ValueError, match="got other"):
            mean.update_parameters(other)
    for name, value in mean.state_dict().items():
        assert torch.equal(value, before[name])


# ---------------------------------------------------------------- batch norm


def batches(count: int = 5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randn(8, 3, 7, 5, generator=generator, dtype=torch.float64) + 1
        for _ in range(count)
    ]


def test_recomputed_statistics_are_those_of_torch(evidence) -> None:
    ours, theirs = network(), network()
    recompute_batch_norms(ours, batches())
    swa_utils.update_bn(batches(), theirs)
    expected = tensors(theirs)
    comparison = difference(
        {name: (value, expected[name]) for name, value in tensors(ours).items()},
        shape=[8, 3, 7, 5],
        modes=["five batches"],
    )
    evidence.equivalent(
        "recomputed",
        comparison,
        reference="torch.optim.swa_utils.update_bn",
        settings="a network without dropout, which torch would leave on",
    )


def test_recomputed_statistics_are_the_mean_of_those_of_the_batches() -> None:
    net = network()
    recompute_batch_norms(net, batches())
    maps = [net[0](x) for x in batches()]
    mean = torch.stack([m.mean(dim=(0, 2, 3)) for m in maps]).mean(dim=0)
    var = torch.stack([m.var(dim=(0, 2, 3)) for m in maps]).mean(dim=0)
    torch.testing.assert_close(net[1].running_mean, mean.detach())
    torch.testing.assert_close(net[1].running_var, var.detach())


def test_only_statistics_change_and_modes_and_momenta_come_back() -> None:
    net = nn.Sequential(network(), nn.Dropout(0.5)).double()
    net[0][1].momentum = 0.03
    net[0].eval()
    before = copy.deepcopy(net)
    results = []
    for seed in (0, 1):  # dropout that is on would draw
        torch.manual_seed(seed)
        recompute_batch_norms(net, iter(batches()))
        results.append(net(batches()[0]) if not net.training else tensors(net))
    assert all(torch.equal(results[0][n], results[1][n]) for n in results[0])
    assert net[0][1].momentum == 0.03
    assert [m.training for m in net.modules()] == [m.training for m in before.modules()]
    for own, old in zip(net.parameters(), before.parameters(), strict=True):
        assert torch.equal(own, old)


def test_no_batches_are_refused_before_anything_is_changed() -> None:
    net = network()
    net[1].running_mean.fill_(3)
    with pytest.raises(ValueError, match="got none"):
        recompute_batch_norms(net, [])
    assert (net[1].running_mean == 3).all()


# ---------------------------------------------------------------- the bench


# The rule for the decay: the average is as long as an epoch, 1 / (1 - beta) steps.
EPOCH = math.ceil(6000 / bench.BATCH_SIZE)
ARMS = ["cosine", "constant", "averaged"]
NAMES = {
    "cosine": "Average, cosine annealing",
    "constant": "Constant rate",
    "averaged": "Average, constant rate",
}


class Averaged(nn.Module):
    """A network that is trained, and its average, which is tested."""

    def __init__(self) -> None:
        super().__init__()
        self.network = bench.network()
        self.mean = WeightEMA(self.network, decay=1 - 1 / EPOCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x) if self.training else self.mean(x)


def bench_sgd(model: nn.Module) -> torch.optim.Optimizer:
    """The bench's optimizer of the network, after whose steps the average follows."""
    assert isinstance(model, Averaged)
    optimizer = bench.sgd(model.network)
    optimizer.register_step_post_hook(
        lambda *_: model.mean.update_parameters(model.network)
    )
    return optimizer


def bench_arm(key: str) -> bench.Arm:
    schedule = bench.cosine if key == "cosine" else (lambda optimizer, n: None)
    if key == "constant":
        return bench.Arm(NAMES[key], schedule=schedule)
    return bench.Arm(
        NAMES[key], network=Averaged, optimizer=bench_sgd, schedule=schedule
    )


def test_the_averaged_network_on_the_bench_starts_as_the_baseline_does() -> None:
    torch.manual_seed(0)
    plain = bench.network()
    torch.manual_seed(0)
    model = Averaged()
    for own, theirs in zip(model.network.parameters(), plain.parameters(), strict=True):
        assert torch.equal(own, theirs)
    step = bench.step(bench_arm("cosine"), 8)
    step()
    optimizer = bench_sgd(model)
    x, y = torch.randn(8, 1, 28, 28), torch.arange(8)
    for count in (1, 2):
        F.cross_entropy(model.train()(x), y).backward()
        optimizer.step()
        assert model.mean.n_averaged == count
    model.eval()
    assert torch.equal(model(x), model.mean.module(x))
    assert not torch.equal(model(x), model.network(x))


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["cosine"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ARMS)
    evidence.measured("bench", arguments=arguments(), run=run)
