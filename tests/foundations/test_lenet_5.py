"""The paper's layer table, its equations written a second way, and digits that are learnt."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cnn_lab.data import digits
from cnn_lab.fit import cross_entropy, fit, predict
from cnn_lab.record import interval, paired, repeat
from cnn_site.equivalence import difference
from cnn_site.laws import gradient_reaches_every_parameter
from cnn_techniques.evaluation import model_cost
from cnn_techniques.foundations import (
    LeNet5,
    LeNet5Paper,
    lenet5_codes,
    lenet5_map_loss,
)
from cnn_techniques.foundations.lenet_5 import LENET5_TABLE

DEVICE_CASES = {
    "LeNet5": lambda: (LeNet5(), (torch.randn(2, 1, 32, 32),)),
    "LeNet5Paper": lambda: (LeNet5Paper(), (torch.randn(2, 1, 32, 32),)),
    "lenet5_map_loss": lambda: (
        lenet5_map_loss,
        (torch.rand(4, 10) * 9, torch.arange(4)),
    ),
}
LAYERS = {  # section II-B: maps, trainable parameters, connections
    "c1": ("C1", (6, 28, 28), 156, 122_304),
    "s2": ("S2", (6, 14, 14), 12, 5_880),
    "c3": ("C3", (16, 10, 10), 1_516, 151_600),
    "s4": ("S4", (16, 5, 5), 32, 2_000),
    "c5": ("C5", (120, 1, 1), 48_120, 48_120),
    "f6": ("F6", (84,), 10_164, 10_164),
}


@pytest.fixture
def paper() -> LeNet5Paper:
    torch.manual_seed(0)
    network = LeNet5Paper()
    for parameter in network.parameters():  # biases too, and away from the flat middle
        nn.init.normal_(parameter, std=0.3)
    return network.double()


def images(count: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 1, 32, 32, generator=generator, dtype=torch.float64)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def connections(network: LeNet5Paper) -> dict[str, int]:
    """Arcs into the units of each layer, counted by perturbing: each bias is one too."""
    shapes: dict[str, torch.Size] = {}
    for name, layer in network.named_children():
        layer.register_forward_hook(
            lambda _module, _inputs, output, name=name: shapes.update(
                {name: output.shape[1:]}
            )
        )
    network(images(1))
    found = {}
    for name, layer in network.named_children():
        places = shapes[name].numel() // shapes[name][0]
        if name in ("s2", "s4"):  # one weight, but four pixels and a bias
            found[name] = shapes[name][0] * 5 * places
        else:
            found[name] = count(layer) * places
    return found


def test_the_layers_are_those_of_the_papers_table(evidence, paper: LeNet5Paper) -> None:
    arcs = connections(paper)
    rows: dict[str, dict[str, Any]] = {}
    x = images(1)
    for key, (name, shape, params, expected) in LAYERS.items():
        layer = paper.get_submodule(key)
        x = layer(x if key != "f6" else x.flatten(1))
        assert x.shape[1:] == shape
        assert count(layer) == params
        assert arcs[key] == expected
        rows[key] = {
            "name": name,
            "maps": " × ".join(map(str, shape)),
            "params": count(layer),
            "connections": arcs[key],
        }
    rows["output"] = {
        "name": "Output",
        "maps": "10",
        "params": 0,
        "connections": paper.codes.numel(),
    }
    rows["together"] = {
        "name": "Together",
        "maps": "",
        "params": count(paper),
        "connections": sum(r["connections"] for r in rows.values()),
    }
    assert rows["together"]["params"] == 60_000
    assert rows["together"]["connections"] == 340_908
    evidence.computed("layers", rows)


def test_the_networks_cost_what_the_page_says(evidence) -> None:
    today = model_cost(LeNet5(), torch.zeros(1, 1, 32, 32))
    original = model_cost(LeNet5Paper(), torch.zeros(1, 1, 32, 32))
    assert today.params == 61_706
    names = ("LeNet-5, the paper's", "LeNet-5, today's")
    rows = {"paper": (names[0], original), "today": (names[1], today)}
    evidence.computed(
        "cost",
        {
            key: {"name": name, "params": cost.params, "macs": cost.macs, "pixels": 32}
            for key, (name, cost) in rows.items()
        },
    )


def test_c3_follows_the_rule_in_the_papers_words() -> None:
    ring = [[(first + k) % 6 for k in range(n)] for n in (3, 4) for first in range(6)]
    assert [sorted(row) for row in ring] == LENET5_TABLE[:12]
    assert all(len(row) == 4 for row in LENET5_TABLE[12:15])
    assert LENET5_TABLE[15] == list(range(6))
    assert len({tuple(row) for row in LENET5_TABLE}) == 16
    seen_by = [sum(m in row for row in LENET5_TABLE) for m in range(6)]
    assert seen_by == [10] * 6  # no map of S2 is favoured


def by_hand(network: LeNet5Paper, x: Tensor) -> Tensor:
    """Section II-B again: patches and sums instead of convolutions and pooling."""

    def squash(a: Tensor) -> Tensor:
        e = torch.exp(4 / 3 * a)
        return 1.7159 * (e - 1) / (e + 1)

    def patches(maps: Tensor) -> Tensor:  # (N, C, H, W) -> (N, C, H - 4, W - 4, 5, 5)
        return maps.unfold(2, 5, 1).unfold(3, 5, 1)

    def halved(maps: Tensor, layer: nn.Module) -> Tensor:
        total = sum(maps[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1))
        return torch.einsum("nchw,c->nchw", total, layer.weight[:, 0, 0]) + layer.bias

    dense = torch.zeros(16, 6, 5, 5, dtype=x.dtype)
    for row, (maps, conv) in enumerate(zip(LENET5_TABLE, network.c3.maps, strict=True)):
        for n, m in enumerate(maps):
            dense[row, m] = conv.weight[0, n]
    bias = torch.cat([conv.bias for conv in network.c3.maps])
    c1 = torch.einsum("nchwij,dcij->ndhw", patches(x), network.c1.weight)
    s2 = squash(halved(squash(c1 + network.c1.bias[:, None, None]), network.s2))
    c3 = torch.einsum("nchwij,dcij->ndhw", patches(s2), dense) + bias[:, None, None]
    s4 = squash(halved(squash(c3), network.s4))
    c5 = squash(torch.einsum("ncij,dcij->nd", s4, network.c5.weight) + network.c5.bias)
    f6 = squash(c5 @ network.f6.weight.T + network.f6.bias)
    return torch.stack([((f6 - code) ** 2).sum(dim=1) for code in network.codes], dim=1)


def test_equals_the_papers_equations_written_a_second_way(
    evidence, paper: LeNet5Paper
) -> None:
    outputs, gradients = {}, {}
    for which, compute in (("ours", paper), ("theirs", lambda x: by_hand(paper, x))):
        x = images().requires_grad_()
        paper.zero_grad()
        penalties = compute(x)
        lenet5_map_loss(penalties, torch.tensor([3, 8])).backward()
        outputs[which] = penalties.detach()
        gradients[which] = {"input": x.grad} | {
            name: p.grad.clone() for name, p in paper.named_parameters()
        }
    found = difference(
        {"penalties": (outputs["ours"], outputs["theirs"])},
        {
            name: (gradients["ours"][name], gradients["theirs"][name])
            for name in gradients["ours"]
        },
        shape=(2, 1, 32, 32),
    )
    evidence.equivalent(
        "paper",
        found,
        reference="section II-B and table I, written with patches and sums",
        settings="random weights and biases",
    )


def test_todays_network_is_the_sum_of_its_layers() -> None:
    torch.manual_seed(0)
    network = LeNet5(num_classes=7).double()
    x = images()
    w = list(network.parameters())
    for kernel, bias in (w[0:2], w[2:4]):
        x = x.unfold(2, 5, 1).unfold(3, 5, 1)
        x = torch.einsum("nchwij,dcij->ndhw", x, kernel) + bias[:, None, None]
        x = x.clamp(min=0)
        corners = [x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        x = torch.stack(corners).amax(dim=0)
    x = x.reshape(2, 400)
    x = (x @ w[4].T + w[5]).clamp(min=0)
    x = (x @ w[6].T + w[7]).clamp(min=0)
    torch.testing.assert_close(network(images()), x @ w[8].T + w[9])


def test_codes_are_drawings_in_plus_and_minus_one() -> None:
    codes = lenet5_codes()
    assert codes.shape == (10, 84)
    assert set(codes.unique().tolist()) == {-1, 1}
    apart = (codes[:, None] != codes).sum(dim=2) + 84 * torch.eye(10)
    assert apart.min() == 7  # 3 and 8 look alike, so do their codes
    assert codes[1].view(12, 7)[:, 3].eq(1).all()  # the stroke of the one


def test_the_penalty_is_zero_exactly_where_f6_draws_the_digit() -> None:
    network = LeNet5Paper()
    for digit, code in enumerate(network.codes):
        nn.init.zeros_(network.f6.weight)
        network.f6.bias.data = 1.5 * torch.atanh(code / 1.7159)  # f(a) = +1 or -1
        penalties = network(images(1).float())[0].detach()
        assert penalties[digit] == pytest.approx(0, abs=1e-8)
        assert penalties.argmin() == digit


def test_the_loss_is_equation_9_written_out() -> None:
    y = torch.tensor([[0.5, 2.0, 3.0], [4.0, 0.1, 9.0]], dtype=torch.float64)
    for j in (0.0, 1.0, 30.0):
        rows = [
            y[0, 0] + torch.log(torch.exp(torch.tensor(-j)) + torch.exp(-y[0]).sum()),
            y[1, 2] + torch.log(torch.exp(torch.tensor(-j)) + torch.exp(-y[1]).sum()),
        ]
        loss = lenet5_map_loss(y, torch.tensor([0, 2]), rubbish=j)
        torch.testing.assert_close(loss, torch.stack(rows).mean(), rtol=1e-6, atol=0)


def test_a_distant_wrong_class_is_not_pushed_further_away() -> None:
    y = torch.tensor([[0.5, 2.0, 50.0]], requires_grad=True)
    lenet5_map_loss(y, torch.tensor([0]), rubbish=5.0).backward()
    assert y.grad is not None
    right, near, far = y.grad[0].tolist()
    assert right > 0  # descent makes the right class's penalty smaller
    assert near < 0
    assert abs(far) < 1e-12


@pytest.mark.parametrize("network", [LeNet5, LeNet5Paper])
def test_gradients_reach_every_parameter(network: type[nn.Module]) -> None:
    gradient_reaches_every_parameter(network(), torch.randn(4, 1, 32, 32))


def test_weights_start_in_the_papers_range() -> None:
    torch.manual_seed(0)
    network = LeNet5Paper()
    for layer, fan_in in (
        (network.c1, 25),
        (network.s2, 4),
        (network.c3.maps[0], 75),
        (network.c3.maps[15], 150),
        (network.c5, 400),
        (network.f6, 120),
    ):
        assert 1.2 / fan_in < layer.weight.abs().max() <= 2.4 / fan_in


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (LeNet5(), (2, 1, 28, 28)),
        (LeNet5(3), (2, 1, 32, 32)),
        (LeNet5(), (1, 32, 32)),
        (LeNet5Paper(), (2, 3, 32, 32)),
    ],
)
def test_refuses_another_shape(network: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, \d, 32, 32\), got \("):
        network(torch.zeros(shape))


def test_refuses_widths_below_one() -> None:
    with pytest.raises(ValueError, match="num_classes=0"):
        LeNet5(num_classes=0)
    with pytest.raises(ValueError, match="in_channels=0"):
        LeNet5(in_channels=0)


def test_the_loss_refuses_what_is_not_penalties() -> None:
    with pytest.raises(ValueError, match=r"\(10,\)"):
        lenet5_map_loss(torch.rand(10), torch.tensor([1]))
    with pytest.raises(ValueError, match="rubbish=-1"):
        lenet5_map_loss(torch.rand(2, 10), torch.tensor([1, 2]), rubbish=-1.0)
    with pytest.raises(ValueError, match=r"integer targets.*torch\.float32"):
        lenet5_map_loss(torch.rand(2, 10), torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16]
)
def test_the_loss_takes_integers_of_any_width(dtype: torch.dtype) -> None:
    y, targets = torch.rand(2, 10), torch.tensor([1, 9])
    expected = lenet5_map_loss(y, targets)
    assert torch.equal(lenet5_map_loss(y, targets.to(dtype)), expected)


# --- the digits, learnt --------------------------------------------------------------


def paper_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    return lenet5_map_loss(model(inputs), targets)


def one_run(
    *, network: str, epochs: int, batch_size: int, lr: float, seed: int
) -> dict[str, Any]:
    """Accuracy on the 597 held-out digits after every epoch, and the last guesses."""
    (train, labels), (test, truth) = digits("train", 32), digits("test", 32)
    train, test = 1.275 * train - 0.1, 1.275 * test - 0.1  # section II-B
    torch.manual_seed(seed)
    is_paper = network == "paper"
    model: nn.Module = LeNet5Paper() if is_paper else LeNet5()

    def guesses(model: nn.Module) -> Tensor:
        output = predict(model, test)
        return output.argmin(dim=1) if is_paper else output.argmax(dim=1)

    history = fit(
        model,
        (train, labels),
        epochs=epochs,
        batch_size=batch_size,
        optimizer=torch.optim.Adam(model.parameters(), lr=lr),
        loss=paper_loss if is_paper else cross_entropy,
        evaluate=lambda m: {"right": int((guesses(m) == truth).sum())},
        seed=seed,
    )
    return {
        "curve": [epoch["right"] / len(truth) for epoch in history],
        "guesses": guesses(model).tolist(),
    }


def training(
    seeds: list[int], epochs: int, batch_size: int, lr: float
) -> dict[str, Any]:
    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr}
    names = {"paper": "The paper's", "today": "Today's"}
    results = repeat(
        one_run,
        {key: {"network": key, **settings} for key in names},
        seeds,
        cache=Path(".cache/runs/lenet-5.jsonl"),
    )
    last = {key: [r["curve"][-1] for r in results[key]] for key in names}
    arms = {
        key: {
            "name": name,
            "accuracy": {"values": last[key], **interval(last[key])},
            "curve": [r["curve"] for r in results[key]],
            "guesses": results[key][0]["guesses"],
        }
        for key, name in names.items()
    }
    return {"arms": arms, "paired": {"paper": paired(last["paper"], last["today"])}}


@pytest.mark.record
def test_both_networks_learn_the_digits(evidence) -> None:
    result = evidence.measured(
        "training",
        arguments={
            "seeds": [0, 1, 2, 3, 4],
            "epochs": 15,
            "batch_size": 32,
            "lr": 1e-3,
        },
        run=training,
    )
    for arm in result["arms"].values():
        assert arm["accuracy"]["low"] > 0.95


def train_today(seed: int) -> dict[str, Any]:
    from cnn_lab.trial import learn_digits

    torch.manual_seed(seed)
    return learn_digits(LeNet5(in_channels=3), seed=seed)


def train_seeds(seeds: list[int]) -> dict[str, Any]:
    from cnn_lab.trial import trials

    cache = Path(__file__).parents[2] / ".cache" / "record" / "lenet5.jsonl"
    return trials(train_today, seeds, cache, {"today": ("LeNet-5, today's", {})})


@pytest.mark.record
def test_record_it_learns_the_digits(evidence) -> None:
    evidence.measured("learns", arguments={"seeds": [0, 1, 2]}, run=train_seeds)
