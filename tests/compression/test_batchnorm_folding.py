"""Folding leaves every output as it was, and folds no norm that something else stands between or beside."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval, prune

from cnn_lab import bench_trained
from cnn_site import ROOT
from cnn_site.equivalence import calibrate, difference, draw_parameters
from cnn_site.laws import every
from cnn_site.parity import compare_change
from cnn_site.speed import side_by_side
from cnn_site.trees import flatten
from cnn_techniques import detection, foundations, modern, segmentation
from cnn_techniques.compression import fold_batch_norms, fold_into, norms_to_fold
from cnn_techniques.evaluation import model_cost

NO_DEVICE_CASES = "it multiplies weights and computes nothing else"


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 6, 3, groups=2, stride=2), nn.BatchNorm2d(6, eps=1e-3), nn.SiLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 5), nn.BatchNorm1d(5),
    )  # fmt: skip


IMAGES = torch.randn(2, 3, 15, 13, generator=torch.Generator().manual_seed(0))


def by_torch(model: nn.Module) -> nn.Module:
    layers = list(model)
    for place, fuse in (
        (0, fuse_conv_bn_eval),
        (3, fuse_conv_bn_eval),
        (8, fuse_linear_bn_eval),
    ):
        layers[place] = fuse(layers[place], layers[place + 1])
        layers[place + 1] = nn.Identity()
    return nn.Sequential(*layers)  # fmt: skip


def test_leaves_the_network_that_torch_leaves(evidence) -> None:
    comparison = compare_change(
        lambda model: fold_batch_norms(model, IMAGES.to(next(model.parameters()))),
        by_torch,
        network(),
        IMAGES,
    )
    evidence.equivalent(
        "change",
        comparison,
        reference="torch.nn.utils.fuse_conv_bn_eval and fuse_linear_bn_eval",
        settings="with and without bias, groups, stride",
    )


def alive(model: nn.Module, images: Tensor) -> nn.Module:
    """Every parameter and statistic drawn, in evaluation mode and float64."""
    draw = torch.Generator().manual_seed(0)
    model.double()
    draw_parameters(model, draw)
    calibrate(model, (images,), torch.float64, draw)
    return model.eval()


def count(model: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d | nn.BatchNorm1d) for m in model.modules())


# Batch norms that stay, in the smallest network of a page, and why.
KEPT = {
    "preactivation_resnet": (9, "norms before convolutions"),
    "wide_resnet": (12, "norms before convolutions"),
    "densenet": (62, "norms before convolutions"),
    "repvgg": (17, "norms of the branch that has no convolution"),
    "googlenet": (2, "of the auxiliary heads, which do not run"),
    "inception_v3": (2, "of the auxiliary head, which does not run"),
}


MAKERS: dict[str, Callable[[], nn.Module]] = {  # the smallest network of each page
    "googlenet": foundations.googlenet,
    "inception_v3": foundations.inception_v3,
    "inception_v4": foundations.inception_v4,
    "vgg": foundations.vgg11_bn,
    "densenet": modern.densenet121,
    "efficientnet": modern.efficientnet_lite0,
    "efficientnet_v2": modern.efficientnet_v2_s,
    "ghostnet": modern.ghostnet_050,
    "mobilenet_v1": modern.mobilenetv1_025,
    "mobilenet_v2": modern.mobilenet_v2,
    "mobilenet_v3": modern.mobilenet_v3_small,
    "mobilenet_v4": modern.mobilenetv4_conv_small,
    "preactivation_resnet": modern.resnetv2_18,
    "regnet": modern.regnet_y_400mf,
    "repvgg": modern.repvgg_a0,
    "resnet": modern.resnet18,
    "resnext": modern.resnext50_32x4d,
    "shufflenet_v2": modern.shufflenet_v2_x0_5,
    "wide_resnet": modern.wide_resnet28_10,
    "xception": modern.xception,
}


def folded_alike(make: Callable[[], nn.Module], side: int) -> tuple[float, int, int]:
    """Largest difference of the outputs, and how many norms there were and are."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, side, side + 32, dtype=torch.float64)
    model = alive(make(), images)
    folded = fold_batch_norms(model, images)
    with torch.no_grad():
        before, after = model(images), folded(images)
    if isinstance(before, tuple):
        before, after = before[0], after[0]
    comparison = difference({"output": (after, before)})
    return comparison.output, count(model), count(folded)


@pytest.mark.slow
@pytest.mark.parametrize("page", MAKERS)
def test_every_network_of_the_catalogue_answers_as_before(page: str) -> None:
    side = 299 if page.startswith("inception") else 96
    _, _, after = folded_alike(MAKERS[page], side)
    assert after == KEPT.get(page, (0, ""))[0]


def test_every_page_whose_code_has_a_batch_norm_is_among_them() -> None:
    missing = [
        path.stem
        for package in ("foundations", "modern")
        for path in (ROOT / "src/cnn_techniques" / package).glob("*.py")
        if "BatchNorm2d" in path.read_text(encoding="utf-8") and path.stem not in MAKERS
    ]
    assert not missing


FINDERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "fcn": (lambda: segmentation.fcn_resnet50(num_classes=5), 0),
    "pspnet": (lambda: segmentation.pspnet_resnet50(num_classes=5), 0),
    "deeplab v3+": (lambda: segmentation.deeplabv3plus_resnet50(num_classes=5), 0),
    "segformer": (lambda: segmentation.segformer_b0(num_classes=5), 0),
    "yolov8": (lambda: detection.yolov8n(num_classes=5), 0),
    # Its heads' convolutions run on every level, each with a norm of its own.
    "efficientdet": (lambda: detection.efficientdet_d0(num_classes=5), 3 * 5 * 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FINDERS)
def test_detectors_and_segmenters_answer_as_before(name: str) -> None:
    make, kept = FINDERS[name]
    torch.manual_seed(0)
    images = torch.randn(2, 3, 128, 160, dtype=torch.float64)
    model = alive(make(), images)
    folded = fold_batch_norms(model, images)
    with torch.no_grad():
        before, after = flatten(model(images)), flatten(folded(images))
    difference({key: (after[key], before[key]) for key in before})
    assert count(model) > count(folded) == kept


# ---------------------------------------------------------------- what must not be folded


class Blocks(nn.Module):
    """A convolution and a norm, put together by the function of a case."""

    def __init__(self, way: Callable[..., Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.way = nn.BatchNorm2d(3), way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self.conv, self.norm, x)


def read_twice(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
    y = conv(x)
    return norm(y) + y


WAYS: dict[str, Callable[..., Tensor]] = {
    "an activation between": lambda conv, norm, x: norm(conv(x).relu()),
    "an activation in place between": lambda conv, norm, x: norm(conv(x).relu_()),
    "the norm before": lambda conv, norm, x: conv(norm(x)),
    "an output read twice": read_twice,
    "a layer that runs twice": lambda conv, norm, x: norm(conv(conv(x))),
    "a norm that runs twice": lambda conv, norm, x: norm(norm(conv(x))),
    "a part of the output": lambda conv, norm, x: norm(conv(x)[:, :, 1:]),
    "an output that the network gives out": lambda conv, norm, x: given_too(
        conv(x), norm
    ),
}


def given_too(y: Tensor, norm: nn.Module) -> dict[str, list[Tensor]]:
    return {"before and after": [y, norm(y)]}


@pytest.mark.parametrize("way", WAYS)
def test_is_not_folded(way: str) -> None:
    model = Blocks(WAYS[way]).eval()
    assert norms_to_fold(model, IMAGES) == {}
    with pytest.raises(ValueError, match="Blocks has no batch norm that can be folded"):
        fold_batch_norms(model, IMAGES)


def test_a_size_that_is_asked_for_is_no_second_reader() -> None:
    def way(conv: nn.Module, norm: nn.Module, x: Tensor) -> Tensor:
        y = conv(x)
        return norm(y) if y.shape[1] == 3 and y.ndim == 4 else y

    assert norms_to_fold(Blocks(way).eval(), IMAGES) == {"norm": "conv"}


@pytest.mark.parametrize("places", [5, 7])
def test_a_norm_over_the_places_of_a_linear_layer_stays(places: int) -> None:
    """Of (N, places, features) a BatchNorm1d norms the places, even if they are as many."""
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(places)).eval()
    assert norms_to_fold(model, torch.randn(2, places, 6)) == {}


def test_a_layer_in_half_precision_stays_so_behind_a_norm_in_single() -> None:
    layer, norm = nn.Conv2d(3, 8, 3).half(), nn.BatchNorm2d(8).eval()
    norm.running_mean.normal_()
    fold_into(layer, norm)
    assert {p.dtype for p in layer.parameters()} == {torch.float16}
    expected = fuse_conv_bn_eval(nn.Conv2d(3, 8, 3).half().eval(), norm)
    assert {p.dtype for p in expected.parameters()} == {torch.float16}


def test_a_pruned_layer_is_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    prune.l1_unstructured(model[0], "weight", 0.5)
    assert norms_to_fold(model, IMAGES) == {}
    prune.remove(model[0], "weight")
    assert norms_to_fold(model, IMAGES) == {"1": "0"}


def test_a_norm_of_two_names_is_gone_under_both() -> None:
    model = Blocks(lambda conv, norm, x: norm(conv(x)))
    model.same = model.norm
    alive(model, IMAGES.double())
    folded = fold_batch_norms(model, IMAGES.double())
    assert count(folded) == 0
    torch.testing.assert_close(folded(IMAGES.double()), model(IMAGES.double()))


def test_every_layer_before_a_norm_is_changed_and_the_given_network_is_not() -> None:
    model = alive(network(), IMAGES.double())
    state = copy.deepcopy(model.state_dict())
    folded = fold_batch_norms(model, IMAGES.double())
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    old = {name: m.weight for name, m in model.named_modules() if hasattr(m, "weight")}
    names = {module: name for name, module in folded.named_modules()}
    layers = (nn.Conv2d, nn.Linear)
    assert (
        every(folded, layers, lambda m: not torch.equal(m.weight, old[names[m]])) == 3
    )
    assert count(folded) == 0


def test_what_is_folded_has_nothing_more_to_fold() -> None:
    folded = fold_batch_norms(network().eval(), IMAGES)
    assert not any(module.training for module in folded.modules())
    with pytest.raises(ValueError, match="Sequential has no batch norm that can be"):
        fold_batch_norms(folded, IMAGES)


def test_gradients_flow_into_the_folded_weights() -> None:
    folded = fold_batch_norms(network().eval(), IMAGES)
    folded(IMAGES).sum().backward()
    assert all(p.grad is not None for p in folded.parameters())


def test_a_norm_without_scale_and_shift_is_folded_too() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False))
    model = alive(plain, IMAGES.double())
    folded = fold_batch_norms(model, IMAGES.double())
    torch.testing.assert_close(folded(IMAGES.double()), model(IMAGES.double()))


def test_training_mode_is_refused_by_name() -> None:
    model = network().eval()
    model[4].train()
    with pytest.raises(ValueError, match="evaluation mode, got 4 in training mode"):
        fold_batch_norms(model, IMAGES)
    with pytest.raises(ValueError, match="in evaluation mode with running statistics"):
        fold_into(model[3], model[4])


def test_a_norm_without_statistics_or_of_other_channels_is_refused() -> None:
    conv = nn.Conv2d(3, 8, 3)
    bare = nn.BatchNorm2d(8, track_running_stats=False).eval()
    with pytest.raises(ValueError, match="with running statistics"):
        fold_into(conv, bare)
    assert norms_to_fold(nn.Sequential(conv, bare).eval(), IMAGES) == {}
    with pytest.raises(ValueError, match="a norm of 8 channels"):
        fold_into(conv, nn.BatchNorm2d(4).eval())


# ---------------------------------------------------------------- numbers


def test_parameters_and_macs_of_resnet_50(evidence) -> None:
    image = torch.zeros(1, 3, 224, 224)
    model = modern.resnet50().eval()
    rows = {}
    for key, made in (("as_it_is", model), ("folded", fold_batch_norms(model, image))):
        cost = model_cost(made, image)
        rows[key] = {
            "name": key.replace("_", " "),
            "params": cost.params,
            "macs": cost.macs,
            "buffers": sum(b.numel() for b in made.buffers()),
            "norms": count(made),
        }
    evidence.computed("cost", rows)
    assert rows["folded"]["norms"] == rows["folded"]["buffers"] == 0
    assert rows["folded"]["macs"] == rows["as_it_is"]["macs"]


def build(names: list[str]) -> dict[str, Callable[[], Callable[[], object]]]:
    """Each network and its folded copy, on one image of 224 pixels."""
    image = torch.randn(1, 3, 224, 224)
    made: dict[str, Callable[[], Callable[[], object]]] = {}
    for name in names:
        torch.manual_seed(0)
        model = getattr(modern, name)().eval()
        for key, one in (
            (name, model),
            (f"{name}_folded", fold_batch_norms(model, image)),
        ):
            made[key] = lambda one=one: lambda: run(one, image)
    return made


@torch.no_grad()
def run(model: nn.Module, image: Tensor) -> object:
    return model(image)


def timed(names: list[str]) -> dict[str, object]:
    arms = {}
    for name in names:
        result = side_by_side(build, against=name, arguments={"names": [name]})
        row = result["arms"][f"{name}_folded"]
        before = result["arms"][name]["seconds"]
        arms[name] = {
            "name": name,
            "before": before,
            **{k: row[k] for k in ("seconds", "ratio", "range")},
        }
    return {"arms": arms}  # fmt: skip


@pytest.mark.record
def test_record_the_time_of_folded_networks(evidence) -> None:
    names = ["resnet50", "mobilenet_v2", "efficientnet_b0"]
    evidence.measured("time", arguments={"names": names}, run=timed)


def answers(seeds: list[int]) -> dict[str, object]:
    """Of 10,000 test images, how many the folded network puts into another class."""
    from cnn_lab.bench import garments
    from cnn_lab.fit import predict

    images, _ = garments("test")
    other, rows = [], []
    for seed in seeds:
        model = bench_trained.trained(seed)
        folded = fold_batch_norms(model, images[:2])
        classes = [predict(m, images).argmax(dim=1) for m in (model, folded)]
        other.append(int((classes[0] != classes[1]).sum()))
        rows.append(bench_trained.score(folded) - bench_trained.score(model))
    return {
        "other_class": other,
        "most": max(other),
        "largest_change": max(map(abs, rows)),
        "seeds": len(seeds),
    }


@pytest.mark.record
def test_record_that_the_trained_networks_answer_as_before(evidence) -> None:
    result = evidence.measured(
        "garments", arguments={"seeds": list(bench_trained.SEEDS)}, run=answers
    )
    assert max(result["other_class"]) <= 1
