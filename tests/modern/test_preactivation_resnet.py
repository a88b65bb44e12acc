"""Pre-activation ResNet is timm's, tensor by tensor; its shortcuts carry x untouched."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from cnn_site.figures.check import check, figure_source
from cnn_site.proofs import network_proof
from cnn_site.variants import Variant
from cnn_techniques.modern import (
    BasicBlock,
    PreActivationBasicBlock,
    PreActivationBottleneck,
    PreActivationResNet,
    resnet50,
    resnetv2_18,
    resnetv2_34,
    resnetv2_50,
    resnetv2_101,
    resnetv2_152,
)

SMALLEST = Variant(resnetv2_18, "ResNetV2-18", "timm.resnetv2_18", match="order")
VARIANTS = [
    SMALLEST,
    Variant(resnetv2_34, "ResNetV2-34", "timm.resnetv2_34", net="slow", match="order"),
    Variant(resnetv2_50, "ResNetV2-50", "timm.resnetv2_50", match="order"),
    Variant(
        resnetv2_101, "ResNetV2-101", "timm.resnetv2_101", net="slow", match="order"
    ),
    Variant(
        resnetv2_152, "ResNetV2-152", "timm.resnetv2_152", net="slow", match="order"
    ),
]


DEVICE_CASES = {
    "PreActivationBasicBlock": lambda: (
        PreActivationBasicBlock(16, 32, stride=2, project=True),
        (torch.randn(2, 16, 9, 12),),
    ),
    "PreActivationBottleneck": lambda: (
        PreActivationBottleneck(64, 16),
        (torch.randn(2, 64, 9, 12),),
    ),
    "resnetv2_18": lambda: (
        resnetv2_18(num_classes=10),
        (torch.randn(2, 3, 64, 96),),
    ),
}


def deep_stack(depth: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    blocks: list[nn.Module] = []
    for _ in range(depth // 2):
        blocks += [PreActivationBasicBlock(16, 16), PreActivationBottleneck(16, 4)]
    return nn.Sequential(*blocks).double()


def branch(block: nn.Module, x: Tensor) -> Tensor:
    """F(x) of a block with a bare shortcut, written a second way."""
    y = x
    for number in range(1, 4):
        norm = getattr(block, f"norm{number}", None)
        conv = getattr(block, f"conv{number}", None)
        if norm is None or conv is None:
            break
        mean = y.mean((0, 2, 3), keepdim=True)
        var = y.var((0, 2, 3), correction=0, keepdim=True)
        y = ((y - mean) / (var + 1e-5).sqrt()).clamp(min=0)
        y = nn.functional.conv2d(y, conv.weight, padding=conv.padding)
    return y


def test_shapes_order_and_costs_of_every_size_are_timms(evidence) -> None:
    rows = {v.key: v.check_structure() for v in VARIANTS}
    plain = Variant(
        resnet50, "ResNet-50", "torchvision.models.resnet50"
    ).check_structure()
    rows["resnet50"] = {key: plain[key] for key in ("name", "params", "macs")}
    evidence.computed("cost", rows)


test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS,
    images=(2, 3, 48, 64),
    small=lambda: PreActivationResNet(
        PreActivationBottleneck, (1, 2, 1, 1), 10, width=8
    ),
)


@pytest.mark.parametrize(("depth", "millions"), [(164, 1.7), (1001, 10.2)])
def test_the_deep_networks_for_cifar_have_the_published_sizes(
    depth: int, millions: float
) -> None:
    with torch.device("meta"):
        model = PreActivationResNet(
            PreActivationBottleneck, [(depth - 2) // 9] * 3, 10, 16, small_images=True
        )
    weighted = sum(
        isinstance(m, nn.Conv2d) and "shortcut" not in name
        for name, m in model.named_modules()
    )
    assert weighted == depth
    size = sum(p.numel() for p in model.parameters())
    assert size / 1e6 == pytest.approx(millions, rel=0.02)


def test_equation_4_the_output_is_the_input_and_the_sum_of_all_branches() -> None:
    stack, x = deep_stack(), torch.randn(2, 16, 9, 7, dtype=torch.float64)
    total, now = x, x
    for block in stack:
        total = total + branch(block, now)
        now = block(now)
    torch.testing.assert_close(stack(x), total, rtol=1e-10, atol=1e-10)


def test_equation_5_the_gradient_reaches_the_input_as_it_left_the_output() -> None:
    stack = deep_stack()
    x = torch.randn(2, 16, 9, 7, dtype=torch.float64, requires_grad=True)
    sent = torch.randn(2, 16, 9, 7, dtype=torch.float64)
    (arrived,) = torch.autograd.grad(stack(x), x, sent)
    results, now = [], x
    for block in stack:
        results.append(branch(block, now))
        now = now + results[-1]
    (rest,) = torch.autograd.grad(torch.stack(results).sum(dim=0), x, sent)
    torch.testing.assert_close(arrived, sent + rest, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_equation_8_a_factor_on_each_shortcut_is_a_power_of_it_at_the_input(
    scale: float,
) -> None:
    class Scaled(PreActivationBasicBlock):
        def forward(self, x: Tensor) -> Tensor:
            return scale * x + (super().forward(x) - x)

    blocks = [Scaled(16, 16) for _ in range(10)]
    for block in blocks:
        nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 16, 5, 5, requires_grad=True)
    (slope,) = torch.autograd.grad(nn.Sequential(*blocks)(x).sum(), x)
    torch.testing.assert_close(slope, torch.full_like(x, scale**10))


@pytest.mark.parametrize(
    "block", [PreActivationBasicBlock(16, 16), PreActivationBottleneck(16, 4)]
)
def test_a_branch_that_gives_zero_leaves_negative_values_too(block: nn.Module) -> None:
    nn.init.zeros_(getattr(block, "conv3", block.conv2).weight)
    x = torch.randn(2, 16, 9, 7)
    assert torch.equal(block(x), x)
    before = BasicBlock(16, 16)  # ResNet's: the ReLU after the sum cuts them off
    nn.init.zeros_(before.bn2.weight)
    assert torch.equal(before(x), x.relu())


def test_a_projection_starts_from_the_norm_and_the_relu_of_the_branch() -> None:
    block = PreActivationBottleneck(8, 4, stride=2, project=True).double()
    nn.init.zeros_(block.conv3.weight)
    x = torch.randn(2, 8, 9, 7, dtype=torch.float64)
    y = nn.functional.batch_norm(x, None, None, training=True).clamp(min=0)
    projected = torch.einsum(
        "nchw,dc->ndhw", y[:, :, ::2, ::2], block.shortcut.weight[:, :, 0, 0]
    )
    torch.testing.assert_close(block(x), projected, rtol=1e-10, atol=1e-10)


def test_the_figures_draw_what_the_blocks_compute() -> None:
    found = figure_source("modern/preactivation-resnet")
    check(found["basic"], PreActivationBasicBlock(64, 64))
    check(
        found["bottleneck"], PreActivationBottleneck(256, 128, stride=2, project=True)
    )
    check(found["before"], BasicBlock(64, 64))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            partial(PreActivationBasicBlock, 16, 32),
            r"needs project=True, got in_channels=16, width=32, stride=1",
        ),
        (partial(PreActivationBottleneck, 64, 16, 2), "stride=2"),
        (
            partial(PreActivationResNet, PreActivationBasicBlock, ()),
            r"one block or more, got layers=\(\)",
        ),
        (
            partial(PreActivationResNet, PreActivationBasicBlock, (2, 0)),
            r"layers=\(2, 0\)",
        ),
        (partial(resnetv2_18, 0), "num_classes=0"),
        (partial(PreActivationResNet, PreActivationBasicBlock, (1,), 10, 0), "width=0"),
        (
            lambda: resnetv2_18()(torch.randn(2, 1, 64, 64)),
            r"expected \(N, 3, H, W\), got \(2, 1, 64, 64\)",
        ),
        (lambda: resnetv2_18()(torch.randn(3, 64, 64)), r"got \(3, 64, 64\)"),
    ],
)
def test_what_cannot_be_a_preactivation_resnet_is_refused(
    make: Callable[[], object], message: str
) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        make()


def test_one_pixel_is_enough() -> None:
    scores = resnetv2_18(num_classes=10).eval()(torch.randn(2, 3, 1, 1))
    assert scores.shape == (2, 10)
