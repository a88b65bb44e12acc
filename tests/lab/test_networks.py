"""Networks by name: each can be trained, and a name is never more than a name."""

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from cnn_lab import networks
from cnn_lab.networks import build, channels
from cnn_techniques.attention import SqueezeExcitation
from cnn_techniques.foundations import LeNet5
from cnn_techniques.modern import ResNet

# The smallest images that fit, where 64 pixels do not, and what else is needed there.
SIZES = {"LeNet5": 32, "alexnet_paper": 224, "inception_v3": 299, "InceptionV3": 299}
FIXED = ("vit_",)  # positions for one size: 224
LARGE = ("inception", "Inception", "xception", "Xception")
SMALLEST = {maker.__module__: name for name, maker in networks.networks().items()} | {
    # The last of a page is often the largest.
    networks.networks()[name].__module__: name
    for name in ("vgg11", "convnext_tiny", "convnextv2_atto", "densenet121",
                 "efficientnet_b0", "efficientnet_v2_s", "mobilenetv4_conv_small",
                 "resnetv2_18", "regnet_x_400mf", "repvgg_a0", "resnet18",
                 "resnext50_32x4d", "vit_b_16", "wide_resnet50_2")
}  # fmt: skip


def size(name: str) -> int:
    if name.startswith(FIXED):
        return 224
    return SIZES.get(name, 128 if name.startswith(LARGE) else 64)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in SMALLEST.values() else pytest.mark.slow)
        for n in networks.networks()
    ],
)
def test_every_network_of_the_list_scores_the_classes_that_are_asked_for(
    name: str,
) -> None:
    with torch.device("meta"):
        model = build(name, 7)
        images = torch.empty(2, channels(model), size(name), size(name))
        for mode in (True, False):
            out = model.train(mode)(images)
            scores = out[0] if isinstance(out, tuple) else out
            assert scores.shape == (2, 7)


def test_the_list_names_the_networks_of_the_pages() -> None:
    listed = set(networks.networks())
    assert {"resnet18", "LeNet5", "vgg16_bn", "convnext_tiny", "vit_b_16"} <= listed
    assert not {"BasicBlock", "channel_shuffle", "SqueezeExcitation"} & listed


def test_a_name_stands_for_the_function() -> None:
    torch.manual_seed(0)
    model = build("LeNet5", 10)
    torch.manual_seed(0)
    same = LeNet5(num_classes=10)
    assert isinstance(model, LeNet5)
    for mine, theirs in zip(model.parameters(), same.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_a_call_is_read_as_python_reads_it() -> None:
    spec = (
        "ResNet(BasicBlock, (1, 2), width=2 * (3 + 5) // 4 - 0, small_images=True, "
        "attention=lambda c: SqueezeExcitation(c, squeeze_channels=c // 4))"
    )
    model = build(spec, 5)
    assert isinstance(model, ResNet)
    assert [
        len(stage) for stage in model.children() if isinstance(stage, nn.Sequential)
    ][:2] == [1, 2]
    assert channels(model) == 3
    assert model(torch.rand(2, 3, 16, 16)).shape == (2, 5)
    blocks = [m for m in model.modules() if isinstance(m, SqueezeExcitation)]
    assert len(blocks) == 3


def test_classes_that_the_call_gives_are_kept() -> None:
    model = build("LeNet5(num_classes=3)", 10)
    assert model(torch.rand(1, 1, 32, 32)).shape == (1, 3)


def test_channels_are_those_that_the_first_convolution_reads() -> None:
    assert channels(build("LeNet5", 10)) == 1
    with torch.device("meta"):
        assert channels(build("resnet18", 10)) == 3


REFUSED = [
    "",
    "   ",
    "(",
    "3",
    "'resnet18'",
    "LeNet5; LeNet5",
    "import os",
    "x = 1",
    "__import__('os')",
    "__import__('os').system('touch PROOF')",
    "open('PROOF', 'w')",
    "eval('1')",
    'exec(\'open("PROOF", "w")\')',
    "LeNet5(open('PROOF', 'w'))",
    "LeNet5.__class__",
    "LeNet5.__init__.__globals__['torch']",
    "LeNet5().__class__",
    "ResNet(BasicBlock.mro(), (1,))",
    "getattr(LeNet5, '__init__')",
    "LeNet5(*[1])",
    "LeNet5(**{'num_classes': 3})",
    "LeNet5([x for x in (1, 2)])",
    "LeNet5({1: 2})",
    "LeNet5({1})",
    "LeNet5(x := 3)",
    "LeNet5(f'{open}')",
    "LeNet5 if True else LeNet5",
    "LeNet5 or LeNet5",
    "[LeNet5][0]",
    "LeNet5(-1 ** 99)",
    "LeNet5(9 ** 9 ** 9)",
    "LeNet5('a' % 1)",
    "(lambda: open('PROOF', 'w'))()",
    "(lambda c=open('PROOF', 'w'): LeNet5())()",
    "(lambda c: c.__class__)(LeNet5)",
    "(lambda *c: LeNet5())()",
    "(lambda **c: LeNet5())()",
    "(lambda f: f(f))(lambda f: f(f))",
    "(lambda: 3)()",
    "ResNet(BasicBlock, (1,), attention=lambda c: open('PROOF', 'w'))",
    "ResNet(BasicBlock, (1,), attention=lambda c: c.__class__)",
    "ResNet(BasicBlock, (1,), attention=lambda *c: SqueezeExcitation(8, 2))",
    "ResNet(BasicBlock, (1,), attention=lambda c, d=2: SqueezeExcitation(c, d))",
    "ResNet(BasicBlock, (1,), attention=lambda: SqueezeExcitation(8, 2))",
    "LeNet5((lambda f: f(f))(lambda f: f(f)))",
    "ResNet(BasicBlock)",
    "ResNet(BasicBlock, (1,), no_such_option=1)",
    "LeNet5('a' * 3)",
    "ResNet('BasicBlock', (1,))",
    "ResNet(BasicBlock, (1,), width='16')",
    "ResNet(BasicBlock, (1,), width=0 // 0)",
    "VGG_CONVOLUTIONS",
    "BasicBlock(8, 8, num_classes=3)",
    "resnet18\x00",
    "ResNet(BasicBlock, " + "(" * 150 + ")" * 150 + ")",
]


@pytest.mark.parametrize("spec", REFUSED)
def test_all_else_is_refused_and_nothing_of_it_is_executed(
    spec: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as told:
        build(spec, 10)
    assert list(tmp_path.iterdir()) == []
    assert len(str(told.value)) < 4000


def test_what_looks_like_the_name_is_named() -> None:
    with pytest.raises(ValueError, match="no network 'resnet81'; did you mean resnet1"):
        build("resnet81", 10)
    with pytest.raises(ValueError, match="no network 'zzz'; see `cnn-lab list`"):
        build("zzz", 10)


def test_a_place_in_the_text_is_told_where_it_cannot_be_read() -> None:
    with pytest.raises(ValueError, match="character"):
        build("ResNet(BasicBlock,, 3)", 10)


def test_what_can_be_reached_is_of_this_project_alone() -> None:
    """A spec can call what it can name: no name may lead out of floor 1."""
    for name, thing in networks.parts().items():
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__module__.startswith("cnn_techniques."), name
        else:
            assert not any(map(callable, within(thing))), name


def within(table: Any) -> list[Any]:
    """All that a table holds."""
    if isinstance(table, dict):
        return [v for pair in table.items() for v in within(pair)]
    if isinstance(table, list | tuple):
        return [v for entry in table for v in within(entry)]
    return [table]


@pytest.mark.parametrize("name", ["ResNet18", "resnet_18", "Resnt18"])
def test_a_near_name_is_found_in_other_letters_too(name: str) -> None:
    with pytest.raises(ValueError, match=r"did you mean resnet18\?"):
        build(name, 10)
