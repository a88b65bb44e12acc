"""The smaller network answers as the large one does without its weakest filters, whatever ties its channels."""

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import prune

from cnn_lab import bench_trained
from cnn_lab.bench import network as bench_network
from cnn_lab.record import interval, paired, repeat
from cnn_site.equivalence import calibrate, difference, draw_parameters
from cnn_site.laws import every, gradient_reaches_every_parameter
from cnn_site.parity import compare_change
from cnn_site.speed import side_by_side
from cnn_techniques import foundations, modern
from cnn_techniques.compression import (
    prune_filters,
    remove_filters,
    tied_filters,
    weakest_filters,
)
from cnn_techniques.evaluation import model_cost

NO_DEVICE_CASES = "it chooses and copies weights and computes nothing else"
IMAGES = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))

# What is added to what in torchvision's ResNet-18, written by hand.
RESNET18 = [
    ["conv1", "layer1.0.conv2", "layer1.1.conv2"],
    ["layer1.0.conv1"], ["layer1.1.conv1"],
    ["layer2.0.conv2", "layer2.0.downsample.0", "layer2.1.conv2"],
    ["layer2.0.conv1"], ["layer2.1.conv1"],
    ["layer3.0.conv2", "layer3.0.downsample.0", "layer3.1.conv2"],
    ["layer3.0.conv1"], ["layer3.1.conv1"],
    ["layer4.0.conv2", "layer4.0.downsample.0", "layer4.1.conv2"],
    ["layer4.0.conv1"], ["layer4.1.conv1"],
]  # fmt: skip


def normed(name: str) -> str:
    """The name of the batch norm behind a convolution of torchvision's ResNet-18."""
    if name.endswith("downsample.0"):
        return name.removesuffix("0") + "1"
    return name.replace("conv", "bn")


def zeroed_by_torch(share: float) -> Callable[[nn.Module], None]:
    """The same filters set to zero: chosen by torch, with the groups and norms named by hand."""

    def change(model: nn.Module) -> None:
        named = dict(model.named_modules())
        for group in RESNET18:
            joint = nn.Module()  # the filters that make one channel, end to end
            weights = [named[name].weight.flatten(1) for name in group]
            joint.weight = nn.Parameter(torch.cat(weights, 1).detach().clone())
            prune.ln_structured(joint, "weight", amount=share, n=1, dim=0)
            mask = joint.weight_mask[:, 0]
            for name in group:
                with torch.no_grad():
                    named[name].weight *= mask[:, None, None, None]
                    named[normed(name)].weight *= mask
                    named[normed(name)].bias *= mask

    return change


def resnet18() -> nn.Module:
    return torchvision.models.resnet18(num_classes=10)


def smaller(share: float) -> Callable[[nn.Module], nn.Module]:
    return lambda model: prune_filters(
        model, share, IMAGES.to(next(model.parameters()))
    )


def test_a_residual_network_answers_as_with_zeros_in_the_place_of_its_filters(
    evidence,
) -> None:
    comparison = compare_change(
        smaller(0.5), zeroed_by_torch(0.5), resnet18(), IMAGES, match=None
    )
    evidence.equivalent(
        "change",
        comparison,
        reference="torch.nn.utils.prune.ln_structured",
        settings="ResNet-18 of torchvision, half of the filters set to zero; the norm behind each "
        "zeroed too; the groups of tied convolutions written by hand",
    )


def test_a_wrong_group_would_be_seen() -> None:
    def wrong(model: nn.Module) -> nn.Module:
        images = IMAGES.to(next(model.parameters()))
        masks = weakest_filters(model, 0.5, images)
        for name in RESNET18[3]:  # the strongest go instead
            masks[name] = ~masks[name]
        return remove_filters(model, masks, images)

    with pytest.raises(AssertionError):
        compare_change(wrong, zeroed_by_torch(0.5), resnet18(), IMAGES, match=None)


def test_the_groups_of_residual_networks_are_found() -> None:
    found = tied_filters(resnet18(), IMAGES)
    assert sorted(map(sorted, found)) == sorted(map(sorted, RESNET18))
    found = tied_filters(bench_network(), torch.randn(1, 1, 28, 28))
    assert ["conv1", "layer1.0.conv2"] in found
    assert ["layer3.0.conv2", "layer3.0.downsample.0"] in found
    assert len(found) == 6


# ---------------------------------------------------------------- many networks


def alive(model: nn.Module, images: Tensor) -> nn.Module:
    """Every parameter and statistic drawn, in evaluation mode and float64."""
    draw = torch.Generator().manual_seed(0)
    model.double()
    draw_parameters(model, draw)
    calibrate(model, (images,), torch.float64, draw)
    return model.eval()


def without(model: nn.Module, masks: dict[str, Tensor]) -> nn.Module:
    """A copy as large as before whose convolutions and linear layers read zero from removed channels.

    Which these are is seen in the run itself: filters that go are NaN, a NaN is carried on by whatever
    stands between, and what reads it takes it for zero.
    """
    changed = copy.deepcopy(model)
    for name, mask in masks.items():
        for parameter in changed.get_submodule(name).parameters():
            parameter.data[~mask] = float("nan")

    def read(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0].nan_to_num(0.0),)

    for module in changed.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_pre_hook(read)
    return changed


def alike(model: nn.Module, images: Tensor, share: float = 0.5) -> tuple[int, int]:
    """Compares both; returns how many convolutions keep their filters, of how many."""
    model = alive(model, images)
    able = [name for group in tied_filters(model, images) for name in group]
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    keep = [name for name in names if name not in able]
    masks = weakest_filters(model, share, images, keep=keep)
    assert any(not mask.all() for mask in masks.values())
    with torch.no_grad():
        small = remove_filters(model, masks, images)(images)
        large = without(model, masks)(images)
        before = model(images)
    difference({"output": (small, large)})
    assert (small - before).abs().max() > 1e-3 * before.abs().max()
    return len(keep), len(names)


class Gated(nn.Module):
    """A depthwise convolution, squeeze-and-excitation and a shortcut, as in MobileNet v3."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.widen, self.norm1 = nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.norm2 = nn.BatchNorm2d(12)
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.narrow, self.norm3 = nn.Conv2d(12, 8, 1, bias=False), nn.BatchNorm2d(8)
        self.classes = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.stem(x))
        y = F.hardswish(self.norm1(self.widen(x)))
        y = F.hardswish(self.norm2(self.deep(y)))
        gate = F.adaptive_avg_pool2d(y, 1)
        y = y * F.hardsigmoid(self.excite(F.relu(self.squeeze(gate))))
        x = x + self.norm3(self.narrow(y))
        return self.classes(x.mean(dim=(2, 3)))


def flat() -> nn.Module:
    """As VGG: the linear layer reads every place of a channel."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d((3, 2)), nn.Flatten(),
        nn.Dropout(), nn.Linear(36, 7), nn.ReLU(), nn.Linear(7, 5),
    )  # fmt: skip


def test_flattened_channels_gates_and_depthwise_convolutions_are_followed() -> None:
    images = IMAGES.double()
    assert alike(flat(), images) == (0, 2)
    assert alike(Gated(), images) == (0, 6)
    assert sorted(map(sorted, tied_filters(Gated(), IMAGES))) == [
        ["deep", "excite", "widen"],
        ["narrow", "stem"],
        ["squeeze"],
    ]
    assert alike(bench_network(), torch.randn(2, 1, 28, 28).double()) == (0, 9)


TORCHVISION: dict[str, tuple[int, int]] = {  # convolutions that must stay, of how many
    "resnet50": (0, 53),
    "vgg11": (0, 8),
    "vgg11_bn": (0, 8),
    "alexnet": (0, 5),
    "mobilenet_v2": (0, 52),
    "mobilenet_v3_small": (0, 52),
    "efficientnet_b0": (0, 81),
    "mnasnet0_5": (0, 52),
    "resnext50_32x4d": (32, 53),  # groups, and what they read
    "densenet121": (62, 120),  # concatenated
    "squeezenet1_1": (17, 26),
    "shufflenet_v2_x0_5": (21, 56),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_networks_of_torchvision_answer_as_without_these_channels(name: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None, num_classes=10)
    images = torch.randn(2, 3, 96, 64, dtype=torch.float64)
    assert alike(model, images) == TORCHVISION[name]


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "resnet": modern.resnet18,
    "vgg": foundations.vgg11_bn,
    "alexnet": foundations.alexnet,
    "mobilenet_v2": modern.mobilenet_v2,
    "mobilenet_v3": modern.mobilenet_v3_small,
    "efficientnet": modern.efficientnet_lite0,
    "preactivation_resnet": modern.resnetv2_18,
    "repvgg": modern.repvgg_a0,
    "xception": modern.xception,
}


@pytest.mark.slow
@pytest.mark.parametrize("page", MAKERS)
def test_networks_of_the_catalogue_answer_as_without_these_channels(page: str) -> None:
    torch.manual_seed(0)
    kept, _ = alike(MAKERS[page](), torch.randn(2, 3, 96, 64, dtype=torch.float64))
    assert kept == (page == "preactivation_resnet")  # whose head is a convolution


# ---------------------------------------------------------------- laws


def test_every_convolution_loses_its_share_and_the_given_network_nothing() -> None:
    model = resnet18()
    model.train()
    before = copy.deepcopy(model.state_dict())
    small = prune_filters(model, 0.25, IMAGES)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.training and small.training
    old = dict(model.named_modules())
    names = {module: name for name, module in small.named_modules()}
    for kind in (nn.Conv2d, nn.BatchNorm2d):
        every(
            small,
            kind,
            lambda m: m.weight.shape[0] * 4 == old[names[m]].weight.shape[0] * 3,
        )
    every(small, nn.BatchNorm2d, lambda m: m.num_features == m.running_var.numel())
    every(
        small,
        nn.Conv2d,
        lambda m: (m.out_channels, m.in_channels) == m.weight.shape[:2],
    )
    assert small.fc.in_features == small.fc.weight.shape[1] == 384
    assert small.fc.out_features == 10


def test_what_stays_are_the_filters_of_the_largest_norms_unchanged() -> None:
    torch.manual_seed(0)
    model = flat()
    small = prune_filters(model, 0.5, IMAGES)
    norms = model[0].weight.abs().sum((1, 2, 3))
    kept = norms.topk(4).indices.sort().values
    assert torch.equal(small[0].weight, model[0].weight[kept])
    assert torch.equal(small[1].running_mean, model[1].running_mean[kept])
    other = model[4].weight.abs().sum((1, 2, 3)).topk(3).indices.sort().values
    assert torch.equal(small[4].weight, model[4].weight[other][:, kept])
    columns = torch.cat([torch.arange(6) + 6 * int(k) for k in other])
    assert torch.equal(small[9].weight, model[9].weight[:, columns])


def test_no_share_changes_no_number_and_nearly_all_leaves_one_filter() -> None:
    model = resnet18().eval()
    same = prune_filters(model, 0.0, IMAGES)
    assert torch.equal(same(IMAGES), model(IMAGES))
    least = prune_filters(model, 0.999, IMAGES)
    assert every(least, nn.Conv2d, lambda m: m.out_channels == 1) == 20
    assert least(IMAGES).shape == (2, 10)


def test_gradients_reach_every_weight_that_stays_and_it_learns() -> None:
    torch.manual_seed(0)
    small = prune_filters(bench_network(), 0.5, torch.randn(1, 1, 28, 28)).double()
    images = torch.randn(8, 1, 28, 28, dtype=torch.float64)
    gradient_reaches_every_parameter(small.train(), images)
    assert all(p.is_leaf and p.requires_grad for p in small.parameters())
    labels = torch.arange(8)
    optimizer = torch.optim.SGD(small.parameters(), 0.1, momentum=0.9)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = F.cross_entropy(small(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_two_steps_remove_what_one_step_removes() -> None:
    """The norms of a layer do not depend on other layers of which nothing was removed."""
    model = flat()
    masks = weakest_filters(model, 0.5, IMAGES)
    one = remove_filters(model, {"0": masks["0"]}, IMAGES)
    two = remove_filters(one, {"4": masks["4"]}, IMAGES)
    whole = remove_filters(model, masks, IMAGES)
    for a, b in zip(two.parameters(), whole.parameters(), strict=True):
        assert torch.equal(a, b)


def test_named_convolutions_and_those_tied_to_them_keep_their_filters() -> None:
    model = resnet18()
    small = prune_filters(model, 0.5, IMAGES, keep=["layer2.0.downsample.0"])
    sizes = {
        name: module.out_channels
        for name, module in small.named_modules()
        if isinstance(module, nn.Conv2d)
    }
    assert [sizes[name] for name in RESNET18[3]] == [128, 128, 128]
    assert sizes["layer2.0.conv1"] == 64
    assert small(IMAGES).shape == (2, 10)


def test_a_layer_that_runs_twice_ties_what_it_reads() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.same = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1)
            self.norm, self.classes = nn.BatchNorm2d(6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.same(self.norm(self.first(x))).relu())
            return self.classes(self.same(x).mean((2, 3)))

    assert tied_filters(Twice(), IMAGES) == [["first", "same"]]


# ---------------------------------------------------------------- what must stay


class Through(nn.Module):
    """Two convolutions with something between that a case gives."""

    def __init__(self, way: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.classes, self.way = nn.Linear(4, 5), way

    def forward(self, x: Tensor) -> Tensor:
        x = self.way(self.first(x))
        return self.classes(self.second(x).mean([2, 3]))


SCALE = torch.rand(1, 4, 1, 1)
WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "a softmax over channels": lambda x: x.softmax(1),
    "a norm over channels": lambda x: F.group_norm(x, 1),
    "a turn of the channels": lambda x: x.flip(1),
    "channels taken apart": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "channels put side by side": lambda x: torch.cat((x[:, :2], x[:, :2]), 1),
    "a mean over channels": lambda x: x * x.mean(1, keepdim=True),
    "a scale that is no layer": lambda x: x * SCALE,
    "a shift for each place": lambda x: x + torch.ones(x.shape[2:]),
    "another order of dimensions": lambda x: x.transpose(1, 2).transpose(1, 2),
    "a second way round": lambda x: x + x.flip(1),
    "padding with channels": lambda x: F.pad(x, (0, 0, 0, 0, 1, 1))[:, 1:5],
    "a linear layer in the middle": lambda x: F.linear(x, torch.eye(x.shape[3])),
    "channels written into others": lambda x: written(x),
}


def written(x: Tensor) -> Tensor:
    """With a pruned x of one channel this would repeat it in all four, and say nothing."""
    wide = torch.zeros(x.shape[0], 4, *x.shape[2:])
    wide[:, :4] = x
    return wide


@pytest.mark.parametrize("way", WAYS)
def test_channels_stay_that_meet(way: str) -> None:
    model = Through(WAYS[way])
    assert tied_filters(model, IMAGES) == [["second"]]
    with pytest.raises(
        ValueError, match=re.escape("must be in keep, or is unknown there: ['first']")
    ):
        prune_filters(model, 0.5, IMAGES)
    small = prune_filters(model, 0.5, IMAGES, keep=["first"])
    assert (small.first.out_channels, small.second.out_channels) == (4, 2)
    with pytest.raises(ValueError, match="expected 4 booleans for first"):
        remove_filters(
            model, {"first": torch.tensor([True, True, False, False])}, IMAGES
        )


PASSING: dict[str, Callable[[Tensor], Tensor]] = {
    "a number": lambda x: 2 * x + torch.tensor(1.0),
    "itself": lambda x: x + x.relu(),
    "a size": lambda x: x[:0] if x.shape[1] == 3 else x.relu(),
    "a place in the middle": lambda x: F.interpolate(x, scale_factor=2),
    "in place": lambda x: x.relu_().add_(1),
}


@pytest.mark.parametrize("way", PASSING)
def test_channels_can_go_that_stay_apart(way: str) -> None:
    assert tied_filters(Through(PASSING[way]), IMAGES) == [["first"], ["second"]]


def test_channels_stay_that_are_added_to_the_image_or_are_the_output() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.c(self.b(x + self.a(x)))}

    assert tied_filters(Residual(), IMAGES) == [["b"]]


def test_a_linear_layer_on_a_map_reads_places_and_no_channels() -> None:
    class OnMap(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 1), nn.Linear(48, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.conv(x))

    assert tied_filters(OnMap(), IMAGES) == []


def test_a_mean_over_other_dimensions_is_not_followed() -> None:
    class Means(nn.Module):
        def __init__(self, *dims: int) -> None:
            super().__init__()
            self.conv, self.linear, self.dims = (
                nn.Conv2d(3, 48, 1),
                nn.Linear(48, 4),
                dims,
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(self.conv(x).mean(self.dims))

    assert tied_filters(Means(2, 3), IMAGES) == [["conv"]]
    assert tied_filters(Means(1, 2), IMAGES) == []  # (N, W), and W is as large


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, float("nan")])
def test_a_share_that_leaves_nothing_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=re.escape(f"below 1, got share={share}")):
        prune_filters(resnet18(), share, IMAGES)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"or is unknown there: .*layer9"):
        prune_filters(resnet18(), 0.5, IMAGES, keep=["layer9"])
    with pytest.raises(ValueError, match=re.escape("convolutions, got ['layer9']")):
        remove_filters(resnet18(), {"layer9": torch.ones(4, dtype=torch.bool)}, IMAGES)


def test_masks_that_do_not_fit_are_refused() -> None:
    model = resnet18()
    masks = weakest_filters(model, 0.5, IMAGES)
    with pytest.raises(ValueError, match=r"64 booleans for layer1\.0\.conv2"):
        remove_filters(model, {**masks, "layer1.0.conv2": ~masks["conv1"]}, IMAGES)
    alone = {"layer2.0.downsample.0": masks["layer2.0.downsample.0"]}
    with pytest.raises(ValueError, match="equal for all that make its channels"):
        remove_filters(model, alone, IMAGES)
    for mask in (torch.zeros(64, dtype=torch.bool), torch.ones(3, dtype=torch.bool)):
        with pytest.raises(ValueError, match=r"64 booleans for layer1\.0\.conv1"):
            remove_filters(model, {"layer1.0.conv1": mask}, IMAGES)


def test_a_layer_that_does_not_run_is_refused_by_name() -> None:
    model = resnet18()
    model.auxiliary = nn.Conv2d(64, 8, 1)
    with pytest.raises(ValueError, match="what auxiliary reads is not known"):
        prune_filters(model, 0.5, IMAGES)


@dataclass
class Scores:
    values: Tensor


def test_an_output_whose_tensors_are_hidden_is_refused() -> None:
    """Its channels could not be told from those that nobody reads."""

    class Hides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Scores:
            return Scores(self.conv(x))

    with pytest.raises(ValueError, match="tensors as outputs, got Scores"):
        prune_filters(Hides(), 0.5, IMAGES)


def test_a_convolution_that_makes_its_weight_anew_is_refused() -> None:
    class Standardized(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x, weight, self.bias)

    model = flat()
    model[4] = Standardized(8, 6, 3)
    with pytest.raises(ValueError, match="what 4 reads is not known"):
        prune_filters(model, 0.5, IMAGES)


# ---------------------------------------------------------------- numbers


def test_parameters_and_macs_of_residual_networks(evidence) -> None:
    image = torch.zeros(1, 3, 224, 224)
    small = torch.zeros(1, 1, 28, 28)
    rows = {}
    for key, name, model, x in (
        ("resnet18", "ResNet-18", torchvision.models.resnet18(), image),
        ("resnet50", "ResNet-50", torchvision.models.resnet50(), image),
        ("bench", "bench", bench_network(), small),
    ):
        for share in (0.0, 0.25, 0.5):
            made = prune_filters(model, share, x)
            cost = model_cost(made.eval(), x)
            rows[f"{key}_{percent(share)}"] = {
                "name": f"{name}, {share:.0%} of the filters removed"
                if share
                else name,
                "params": cost.params,
                "macs": cost.macs,
            }
    evidence.computed("cost", rows)
    # Half of the inputs and half of the outputs: a quarter, but for first layer and classes.
    for key in ("params", "macs"):
        assert 3.5 < rows["resnet50_0"][key] / rows["resnet50_50"][key] < 4


def percent(share: float) -> str:
    """As a part of a key, which has no dot."""
    return f"{100 * share:g}".replace(".", "p")


def small_network(share: float, choice: str, seed: int) -> nn.Module:
    """The trained network of a seed without a share of its filters."""
    model = bench_trained.trained(seed)
    image = bench_trained.calibration_images(1)
    tied = [name for group in tied_filters(model, image) for name in group[:-1]]
    masks = weakest_filters(model, share, image, keep=tied if choice == "inner" else ())
    if choice == "random":
        draw = torch.Generator().manual_seed(seed)
        for group in tied_filters(model, image):
            mask = masks[group[0]][torch.randperm(len(masks[group[0]]), generator=draw)]
            masks |= dict.fromkeys(group, mask)
    return remove_filters(model, masks, image)


def pruned(share: float, choice: str, seed: int) -> dict[str, float]:
    """Accuracy right after the removal and after training again; size of what is left.

    Args:
        choice: which filters go: "weakest", "random", "inner" (the weakest of those that
            nothing ties), or "scratch": the weakest, and all that stay are drawn anew and
            trained as the first time.
    """
    model = small_network(share, choice, seed)
    cost = model_cost(model, torch.zeros(1, 1, 28, 28))
    before = bench_trained.score(model)
    if choice == "scratch":
        torch.manual_seed(seed + 1000)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out")
            elif hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
        bench_trained.train(model, seed)
    else:
        bench_trained.train(
            model,
            seed,
            epochs=bench_trained.AGAIN_EPOCHS,
            rate=bench_trained.AGAIN_RATE,
        )
    return {
        "before": before,
        "after": bench_trained.score(model),
        "params": cost.params,
        "macs": cost.macs,
        "bytes": bench_trained.file_bytes(model.state_dict()),
    }


NAMES = {
    "weakest": "weakest filters",
    "random": "random filters",
    "inner": "weakest, first convolution of each block alone",
    "scratch": "same sizes, trained from scratch",
}


def garments(shares: dict[str, list[float]], seeds: list[int]) -> dict[str, object]:
    """Accuracy of pruned networks, the same seeds for all, and against those left whole."""
    arms = {
        f"{choice}_{percent(share)}": {"share": share, "choice": choice}
        for choice, several in shares.items()
        for share in several
    }
    cache = Path(__file__).parents[2] / ".cache/record/structured_pruning.jsonl"
    runs = repeat(pruned, arms, seeds, cache)
    whole = [bench_trained.score(bench_trained.trained(seed)) for seed in seeds]

    def values(key: str, quantity: str) -> list[float]:
        return [run[quantity] for run in runs[key]]

    rows = {
        key: {
            "name": f"{arm['share']:.1%} of the {NAMES[arm['choice']]}",
            **{
                name: {"values": values(key, q), **interval(values(key, q))}
                for name, q in (("before", "before"), ("accuracy", "after"))
            },
            **{q: runs[key][0][q] for q in ("params", "macs", "bytes")},
        }
        for key, arm in arms.items()
    }
    return {
        "seeds": len(seeds),
        "whole": {"values": whole, **interval(whole)},
        "arms": rows,
        "paired": {
            key: {"name": rows[key]["name"], **paired(values(key, "after"), whole)}
            for key in arms
        },
        "against_random": {
            f"{percent(share)}_{q}": paired(
                values(f"weakest_{percent(share)}", q),
                values(f"random_{percent(share)}", q),
            )
            for share in shares["random"]
            for q in ("before", "after")
        },
        "against_scratch": {
            f"{percent(share)}": paired(
                values(f"weakest_{percent(share)}", "after"),
                values(f"scratch_{percent(share)}", "after"),
            )
            for share in shares["scratch"]
        },
    }


@pytest.mark.record
def test_record_the_accuracy_of_pruned_networks(evidence) -> None:
    result = evidence.measured(
        "garments",
        arguments={
            "shares": {
                "weakest": [0.125, 0.25, 0.5, 0.75],
                "random": [0.125, 0.25, 0.5, 0.75],
                "inner": [0.5, 0.75],
                "scratch": [0.5],
            },
            "seeds": list(bench_trained.SEEDS),
        },
        run=garments,
    )
    assert result["arms"]["weakest_50"]["accuracy"]["mean"] > 0.8


def build(
    name: str, shares: list[float]
) -> dict[str, Callable[[], Callable[[], object]]]:
    """The network whole, with zeros, and smaller, on one image (the bench's: 64)."""
    torch.manual_seed(0)
    if name == "bench":
        model, x = bench_network().eval(), torch.randn(64, 1, 28, 28)
    else:
        model, x = (
            getattr(torchvision.models, name)().eval(),
            torch.randn(1, 3, 224, 224),
        )
    networks = {"whole": model}
    masks = weakest_filters(model, max(shares), x)
    zeros = copy.deepcopy(model)
    for layer, mask in masks.items():
        zeros.get_submodule(layer).weight.data[~mask] = 0
    networks[f"zeros_{percent(max(shares))}"] = zeros
    for share in shares:
        networks[f"smaller_{percent(share)}"] = prune_filters(model, share, x)
    return {key: lambda one=one: lambda: run(one, x) for key, one in networks.items()}


@torch.no_grad()
def run(model: nn.Module, images: Tensor) -> object:
    return model(images)


def timed(names: dict[str, str], shares: list[float]) -> dict[str, object]:
    arms = {}
    for name, title in names.items():
        result = side_by_side(
            build, against="whole", arguments={"name": name, "shares": shares}
        )
        for key, row in result["arms"].items():
            kind, _, share = key.partition("_")
            how = {"whole": "", "zeros": "zeros for", "smaller": "without"}[kind]
            text = f"{title}, {how} {share} % of the filters" if share else title
            arms[f"{name}_{key}"] = {"name": text, **{k: row[k] for k in ("seconds", "ratio", "range")}}  # fmt: skip
    return {"arms": arms}


@pytest.mark.record
def test_record_the_time_of_smaller_networks(evidence) -> None:
    evidence.measured(
        "time",
        arguments={
            "names": {
                "resnet18": "ResNet-18",
                "resnet50": "ResNet-50",
                "bench": "bench, 64 images",
            },
            "shares": [0.25, 0.5],
        },
        run=timed,
    )
