"""The function of the transfer page reads inner layers of every network, as torchvision's own extractor does of its networks."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from cnn_lab import networks
from cnn_lab.networks import build, channels
from cnn_site import ROOT
from cnn_site.fences import page_blocks
from cnn_techniques.detection import (
    FeaturePyramidNetwork,
    RetinaNet,
    RetinaNetBackbone,
)
from cnn_techniques.modern import BasicBlock, ResNet
from cnn_techniques.segmentation import UNet

PAGE = ROOT / "docs/lab/transfer.md"
# One network of each file, the smallest where the last one is large.
EACH = {make.__module__: name for name, make in networks.networks().items()} | {
    networks.networks()[name].__module__: name
    for name in ("alexnet", "vgg11", "inception_v3", "convnext_tiny", "densenet121",
                 "convnextv2_atto", "efficientnet_b0", "efficientnet_v2_s", "resnet18",
                 "mobilenetv4_conv_small", "resnetv2_18", "regnet_x_400mf", "repvgg_a0",
                 "resnext50_32x4d", "vit_b_32", "wide_resnet50_2")
}  # fmt: skip
SIZES = {"LeNet5": 32, "LeNet5Paper": 32, "inception_v3": 299}  # all others: 224


def features_of() -> Any:
    (block,) = [b for b in page_blocks(PAGE) if "def features_of" in b.code]
    shown: dict[str, Any] = {}
    exec(block.code.partition("\nnetwork = ")[0], shown)
    return shown["features_of"]


def detector() -> nn.Module:
    body = ResNet(BasicBlock, (1, 1, 1, 1), width=4)
    backbone = RetinaNetBackbone(body, FeaturePyramidNetwork([8, 16, 32], 8))
    return RetinaNet(backbone, 8, 3, (12, 20, 32), (8, 16, 32))


OTHERS = {"UNet": lambda: UNet(3, 2, padding=1), "RetinaNet": detector}


@pytest.mark.parametrize("name", [*EACH.values(), *OTHERS])
def test_every_inner_module_of_every_network_gives_what_it_returned(name: str) -> None:
    with torch.device("meta"):
        model = (OTHERS[name]() if name in OTHERS else build(name, 7)).eval()
        side = SIZES.get(name, 224)
        images = torch.empty(2, channels(model), side, side)
        returned: dict[str, Any] = {}
        for part, module in model.named_modules():
            module.register_forward_hook(
                lambda _, __, out, part=part: returned.update({part: out})
            )
        parts = [part for part, _ in model.named_modules() if part]
        found = features_of()(model, parts, images)
    assert list(found) == [part for part in returned if part]
    assert len(found) > 5
    for part, output in found.items():
        assert output is returned[part]
    for module in model.modules():  # those of the function are gone
        assert len(module._forward_hooks) == 1


FAST = {
    "resnet18": ["layer1", "layer2", "layer3", "layer4"],
    "mobilenet_v2": ["features.3", "features.10", "features.18"],
    "squeezenet1_1": ["features.4", "features.12"],
    "shufflenet_v2_x0_5": ["stage2", "stage3", "stage4"],
}
SLOW = {
    "densenet121": ["features.denseblock1", "features.denseblock4"],
    "efficientnet_b0": ["features.2", "features.8"],
    "regnet_x_400mf": ["trunk_output.block1", "trunk_output.block4"],
    "convnext_tiny": ["features.1", "features.7"],
}


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
)
def test_blocks_give_what_torchvisions_extractor_gives_under_the_same_names(
    name: str,
) -> None:
    torch.manual_seed(0)
    blocks = {**FAST, **SLOW}[name]
    theirs, ours = torchvision.models.get_model(name).eval(), build(name, 1000).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found = features_of()(ours, blocks, images)
        expected = create_feature_extractor(theirs, blocks)(images)
    assert list(found) == blocks
    for block in blocks:
        value = expected[block]
        assert not torch.equal(value[0], value[1])
        torch.testing.assert_close(found[block], value, rtol=1e-4, atol=1e-5)
