import math
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from cnn_lab import bench
from cnn_lab.data import digits
from cnn_lab.fit import accuracy, fit, generator, steps
from cnn_lab.record import interval, paired, repeat
from cnn_site.bench import arguments, beside_the_baseline, cost_beside_the_baseline
from cnn_site.equivalence import difference
from cnn_techniques.training import Mixup, mixup_batch


def batch(
    n: int = 6, classes: int = 5, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 3, 7, 9, dtype=dtype), torch.arange(n) % classes


def one_hot(labels: Tensor, classes: int = 5) -> Tensor:
    return F.one_hot(labels, classes).double()


def device_case() -> tuple[object, tuple[Tensor, ...]]:
    images, labels = batch(dtype=torch.get_default_dtype())
    soft = F.one_hot(labels, 5).to(images.dtype)
    return mixup_batch, (images, soft, torch.rand(6), torch.arange(6).roll(1))


DEVICE_CASES = {"mixup_batch": device_case}


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97])
def test_it_equals_torchvisions_mixup_given_the_same_draw(
    evidence, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    torch.manual_seed(0)
    images, labels = batch()
    theirs = v2.MixUp(alpha=0.2, num_classes=5)
    monkeypatch.setattr(theirs, "make_params", lambda _: {"lam": share})
    mine = images.clone().requires_grad_()
    other = images.clone().requires_grad_()
    ours = mixup_batch(
        mine,
        one_hot(labels),
        torch.tensor(share, dtype=torch.float64),
        torch.arange(6).roll(1),
    )
    expected = theirs(other, one_hot(labels))
    up = torch.randn_like(images)
    (g,), (h,) = (
        torch.autograd.grad(ours[0], mine, up),
        torch.autograd.grad(expected[0], other, up),
    )
    result = difference(
        {
            "images": (ours[0].detach(), expected[0].detach()),
            "labels": (ours[1], expected[1]),
        },
        {"images": (g, h)},
        shape=images.shape,
        modes=["lam 0, 0.3 and 0.97"],
    )
    evidence.equivalent(
        "torchvision",
        result,
        reference="torchvision.transforms.v2.MixUp",
        settings="the same share; partner = the image before",
    )


def test_integer_labels_become_the_same_soft_labels_as_torchvisions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, labels = batch(dtype=torch.float32)
    theirs, ours = v2.MixUp(alpha=0.2, num_classes=5), Mixup(5, alpha=0.2)
    monkeypatch.setattr(theirs, "make_params", lambda _: {"lam": 0.3})
    monkeypatch.setattr(
        ours,
        "draw",
        lambda n: (torch.tensor(0.3, dtype=torch.float64), torch.arange(n).roll(1)),
    )
    for a, b in zip(ours(images, labels), theirs(images, labels), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16]
)
def test_labels_are_integers_of_any_width(dtype: torch.dtype) -> None:
    images, labels = batch(dtype=torch.float32)
    soft = []
    for given in (labels, labels.to(dtype)):
        torch.manual_seed(0)
        soft.append(Mixup(5)(images, given)[1])
    assert torch.equal(*soft)


def test_cross_entropy_with_the_soft_label_is_the_blend_of_the_two_cross_entropies() -> (
    None
):
    torch.manual_seed(0)
    images, labels = batch()
    net = nn.Sequential(nn.Flatten(), nn.Linear(189, 5)).double()
    lam, partner = torch.tensor(0.3, dtype=torch.float64), torch.randperm(6)
    x, y = mixup_batch(images, one_hot(labels), lam, partner)
    scores = net(x)
    two = lam * F.cross_entropy(scores, labels) + (1 - lam) * F.cross_entropy(
        scores, labels[partner]
    )
    torch.testing.assert_close(F.cross_entropy(scores, y), two)


def test_soft_labels_are_distributions() -> None:
    torch.manual_seed(0)
    for per_image in (False, True):
        _, y = Mixup(5, alpha=1.0, per_image=per_image)(*batch(n=50))
        assert y.min() >= 0
        torch.testing.assert_close(y.sum(dim=1), torch.ones(50, dtype=torch.float64))


def test_a_share_of_1_keeps_the_batch_and_a_share_of_0_swaps_in_the_partners() -> None:
    images, labels = batch()
    partner = torch.randperm(6)
    for lam, expected in ((1.0, torch.arange(6)), (0.0, partner)):
        x, y = mixup_batch(images, one_hot(labels), torch.tensor(lam), partner)
        assert torch.equal(x, images[expected])
        assert torch.equal(y, one_hot(labels)[expected])


def test_swapping_an_image_with_its_partner_and_the_share_with_its_rest_changes_nothing() -> (
    None
):
    torch.manual_seed(0)
    images, labels = batch()
    lam, partner = torch.rand(6, dtype=torch.float64), torch.randperm(6)
    x, y = mixup_batch(images, one_hot(labels), lam, partner)
    back = torch.argsort(partner)
    u, v = mixup_batch(images[partner], one_hot(labels)[partner], 1 - lam, back)
    torch.testing.assert_close(x, u)
    torch.testing.assert_close(y, v)


def test_alpha_0_returns_the_batch_as_it_is() -> None:
    images, labels = batch()
    for per_image in (False, True):
        x, y = Mixup(5, alpha=0, per_image=per_image)(images, labels)
        assert torch.equal(x, images)
        assert torch.equal(y, one_hot(labels))


def test_shares_follow_beta_from_hardly_blended_to_half_and_half() -> None:
    torch.manual_seed(0)
    for alpha in (0.01, 0.2, 1.0, 32.0):
        lam, _ = Mixup(2, alpha=alpha, per_image=True).draw(20_000)
        assert lam.mean().item() == pytest.approx(0.5, abs=0.015)
        assert lam.var().item() == pytest.approx(1 / (8 * alpha + 4), rel=0.05)


def test_one_share_is_drawn_for_the_batch_unless_per_image_is_asked_for() -> None:
    torch.manual_seed(0)
    images = torch.eye(8).view(
        8, 1, 8, 1
    )  # image k is 1 at pixel k only: its own share can be read off
    own = {}
    for per_image in (False, True):
        mix = Mixup(8, alpha=1.0, per_image=per_image)
        drawn = []
        monkey = mix.draw
        mix.draw = lambda n, m=monkey, d=drawn: d.append(m(n)) or d[-1]  # type: ignore[method-assign]
        x, y = mix(images, torch.arange(8))
        assert torch.equal(x.view(8, 8), y)
        moved = drawn[0][1] != torch.arange(8)
        own[per_image] = y.diagonal()[moved].unique().numel()
    assert own[False] == 1
    assert own[True] > 1


def test_the_seed_decides_the_blend() -> None:
    images, labels = batch()
    outs = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outs.append(Mixup(5)(images, labels)[0])
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])


def test_the_batch_itself_is_not_changed() -> None:
    images, labels = batch()
    before = images.clone()
    Mixup(5, alpha=1.0)(images, labels)
    assert torch.equal(images, before)


def test_gradients_reach_both_images_of_a_blend() -> None:
    images, labels = batch(n=2)
    images.requires_grad_()
    x, _ = mixup_batch(
        images, one_hot(labels), torch.tensor(0.25), torch.tensor([1, 0])
    )
    x[0].sum().backward()
    assert images.grad is not None
    assert images.grad[0].unique().tolist() == [0.25]
    assert images.grad[1].unique().tolist() == [0.75]


def test_the_loss_of_a_constant_prediction_is_least_at_the_share() -> None:
    lam = 0.3  # the soft label's entropy: no prediction of a blend can have a smaller loss
    y = torch.tensor([[lam, 1 - lam]], dtype=torch.float64)
    entropy = -(lam * math.log(lam) + (1 - lam) * math.log(1 - lam))
    assert F.cross_entropy(y.log(), y).item() == pytest.approx(entropy)
    assert F.cross_entropy(torch.tensor([[0.0, 9.0]]).double(), y) > entropy


def test_wrong_arguments_are_refused() -> None:
    for alpha in (-0.1, 0.001, math.inf, math.nan):
        with pytest.raises(ValueError, match="alpha"):
            Mixup(5, alpha=alpha)
    with pytest.raises(ValueError, match="classes=0"):
        Mixup(0)


def test_wrong_batches_are_refused() -> None:
    images, labels = batch()
    mix = Mixup(5)
    with pytest.raises(TypeError, match=r"torch\.uint8"):
        mix((images * 255).byte(), labels)
    with pytest.raises(ValueError, match="0 to 4, got 0 to 5"):
        mix(images, torch.arange(6))
    with pytest.raises(ValueError, match=r"\(6, 4\)"):
        mix(images, torch.zeros(6, 4))
    with pytest.raises(ValueError, match=r"\(5,\)"):
        mix(images, labels.double()[:5])
    with pytest.raises(ValueError, match=r"\(6, 3, 7, 9\), \(5, 5\)"):
        mix(images, labels[:5])
    soft, partner = one_hot(labels), torch.arange(6)
    with pytest.raises(TypeError, match=r"torch\.int64"):
        mixup_batch(images, labels, torch.tensor(0.5), partner)
    with pytest.raises(ValueError, match=r"\(3,\)"):
        mixup_batch(images, soft, torch.full((3,), 0.5), partner)
    with pytest.raises(ValueError, match=r"got 1\.5"):
        mixup_batch(images, soft, torch.tensor(1.5), partner)


def small_network() -> nn.Module:
    def block(i: int, o: int) -> list[nn.Module]:
        return [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]

    return nn.Sequential(
        *block(1, 16), *block(16, 32), nn.MaxPool2d(2), *block(32, 64),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def digits_with_mixup(
    alpha: float, wrong: float, epochs: int, seed: int
) -> dict[str, object]:
    """Train the small network, with a share of the training labels drawn at random; the test labels are right."""
    images, labels = digits("train")
    drawn = generator(seed, 1)
    redrawn = torch.rand(len(labels), generator=drawn) < wrong
    labels[redrawn] = torch.randint(10, (int(redrawn.sum()),), generator=drawn)
    torch.manual_seed(seed)
    model = small_network()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4
    )
    count = steps(len(labels), epochs=epochs, batch_size=64)
    mix = Mixup(10, alpha)

    def blend(x: Tensor, y: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
        torch.manual_seed(
            source.initial_seed()
        )  # `fit` gives the global generator back afterwards
        return mix(x, y)

    test = digits("test")
    history = fit(
        model,
        (images, labels),
        epochs=epochs,
        batch_size=64,
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count),
        batch_transform=blend if alpha else None,
        evaluate=lambda net: {"accuracy": accuracy(net, *test)},
        seed=seed,
    )
    return {
        "accuracy": [row["accuracy"] for row in history],
        "loss": [row["loss"] for row in history],
    }


def mixup_against_plain(
    arms: dict[str, dict[str, float]],
    names: dict[str, str],
    pairs: dict[str, str],
    epochs: int,
    seeds: int,
) -> dict[str, object]:
    """Every arm over the same seeds (initial weights, order, wrong labels), each blended arm paired with its plain one."""
    results = repeat(
        digits_with_mixup,
        {arm: {**given, "epochs": epochs} for arm, given in arms.items()},
        range(seeds),
        Path(__file__).parents[2] / ".cache/record/mixup.jsonl",
    )
    last = {arm: [run["accuracy"][-1] for run in runs] for arm, runs in results.items()}
    return {
        "arms": {
            arm: {
                "name": names[arm],
                **arms[arm],
                "accuracy": {"values": last[arm], **interval(last[arm])},
                "curve": [run["accuracy"] for run in results[arm]],
            }
            for arm in arms
        },
        "paired": {
            arm: {
                "name": f"{names[arm]} − {names[plain]}",
                **paired(last[arm], last[plain]),
            }
            for arm, plain in pairs.items()
        },
    }


@pytest.mark.record
def test_mixup_paired_against_plain_training_with_right_and_with_wrong_labels(
    evidence,
) -> None:
    evidence.measured(
        "digits",
        arguments={
            "arms": {
                "plain": {"alpha": 0, "wrong": 0.0},
                "imagenet": {"alpha": 0.2, "wrong": 0.0},
                "cifar": {"alpha": 1, "wrong": 0.0},
                "plain_wrong": {"alpha": 0, "wrong": 0.5},
                "cifar_wrong": {"alpha": 1, "wrong": 0.5},
                "strong_wrong": {"alpha": 8, "wrong": 0.5},
            },
            "names": {
                "plain": "plain",
                "imagenet": "Mixup, α = 0.2",
                "cifar": "Mixup, α = 1",
                "plain_wrong": "plain, half of the labels random",
                "cifar_wrong": "Mixup, α = 1, half of the labels random",
                "strong_wrong": "Mixup, α = 8, half of the labels random",
            },
            "pairs": {
                "imagenet": "plain",
                "cifar": "plain",
                "cifar_wrong": "plain_wrong",
                "strong_wrong": "plain_wrong",
            },
            "epochs": 30,
            "seeds": 5,
        },
        run=mixup_against_plain,
    )


# ---------------------------------------------------------------- the bench


ARMS = ["mixup", "wrong"]


def bench_arm(key: str) -> bench.Arm:
    blend = Mixup(10, alpha=1.0)

    def mixed(x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        torch.manual_seed(draw.initial_seed())  # `fit` gives the global state back
        return blend(x, y)

    handicap = {"mixup": "none", "wrong": "wrong labels"}[key]
    return bench.Arm("Mixup, α = 1", batch_transform=mixed, handicap=handicap)


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ARMS[:1]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ARMS)
    evidence.measured("bench", arguments=arguments(), run=run)
