"""BAM has no packaged reference: the paper's equations are written a second way."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_lab import bench
from cnn_site.bench import (
    arguments,
    beside_the_baseline,
    cost_beside_the_baseline,
    time_beside_the_baseline,
)
from cnn_site.equivalence import compare
from cnn_techniques.attention import BAM
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern import resnet50
from cnn_techniques.modern.resnet import Bottleneck, ResNet

DEVICE_CASES = {
    "BAM": lambda: (BAM(64), (torch.randn(2, 64, 9, 7),)),
    "dilation 2": lambda: (BAM(32, 8, 2), (torch.randn(2, 32, 9, 7),)),
}
IMAGES = torch.randn(4, 64, 19, 14, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def block() -> BAM:
    torch.manual_seed(0)
    return BAM(64)


class Equations(nn.Module):
    """Equations 1 to 4 of arXiv:1807.06514 with sums of shifted images.

    The order of parameters is ours. Batch norms are torch's: they are not what is shown here.
    """

    def __init__(self, channels: int, squeezed: int, dilation: int) -> None:
        super().__init__()
        c, r = channels, squeezed
        shapes = [(r, c), (c, r), (r, c), (r, 3, 3, r), (r, 3, 3, r), (1, r)]
        widths = [r, c, r, r, r, 1]
        self.dilation = dilation
        self.steps = nn.ModuleList()
        for shape, width in zip(shapes, widths, strict=True):
            step = nn.Module()
            step.weight = nn.Parameter(torch.empty(self.ours(shape)))
            step.norm = nn.BatchNorm2d(width)
            self.steps.append(step)

    @staticmethod
    def ours(shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that a convolution gives the same weight."""
        if len(shape) == 2:
            return (*shape, 1, 1)
        out, height, width, into = shape
        return (out, into, height, width)

    def dense(self, step: int, x: Tensor) -> Tensor:
        """The same matrix at every place."""
        weight = self.steps[step].weight.flatten(1)
        return self.steps[step].norm(torch.einsum("nchw,rc->nrhw", x, weight))

    def dilated(self, step: int, x: Tensor) -> Tensor:
        d, weight = self.dilation, self.steps[step].weight
        height, width = x.shape[2:]
        padded = F.pad(x, (d, d, d, d))
        total = torch.zeros_like(x)
        for i in range(3):
            for j in range(3):
                shifted = padded[:, :, i * d : i * d + height, j * d : j * d + width]
                total = total + torch.einsum(
                    "nchw,rc->nrhw", shifted, weight[..., i, j]
                )
        return self.steps[step].norm(total)

    def forward(self, f: Tensor) -> Tensor:
        pooled = f.sum(dim=(2, 3), keepdim=True) / (f.shape[2] * f.shape[3])
        m_c = self.dense(1, self.dense(0, pooled).clamp(min=0))  # equation 3
        s = self.dense(2, f).clamp(min=0)
        s = self.dilated(3, s).clamp(min=0)
        s = self.dilated(4, s).clamp(min=0)
        m_s = self.dense(5, s)  # equation 4
        m = 1 / (1 + torch.exp(-(m_c.expand_as(f) + m_s.expand_as(f))))  # equation 2
        return f * (1 + m)  # equation 1


@pytest.mark.parametrize(("reduction", "dilation"), [(16, 4), (8, 2)])
def test_equals_the_papers_equations(reduction: int, dilation: int, evidence) -> None:
    reference = Equations(64, 64 // reduction, dilation)
    comparison = compare(BAM(64, reduction, dilation), reference, IMAGES, match="order")
    evidence.equivalent(
        "block" if reduction == 16 else f"r = {reduction}, d = {dilation}",
        comparison,
        reference="the paper's equations 1 to 4, written a second way",
        settings=f"r = {reduction}, d = {dilation}; hidden layers of the authors' code",
    )


@pytest.mark.parametrize("size", [(1, 1), (7, 7), (3, 5), (32, 32)])
def test_keeps_the_shape_for_any_size(block: BAM, size: tuple[int, int]) -> None:
    assert block(torch.randn(2, 64, *size)).shape == (2, 64, *size)


def test_every_value_is_kept_once_and_let_through_at_most_once_more(block: BAM) -> None:
    factors = block(IMAGES) / IMAGES
    assert ((factors > 1) & (factors < 2)).all()


def test_the_logit_of_a_gate_is_a_term_per_channel_plus_a_term_per_place(
    block: BAM,
) -> None:
    """The second difference over channels and places is zero in a sum, not in a product."""
    x = IMAGES.double()
    logits = torch.logit(block.double()(x) / x - 1)
    first = logits - logits[:, :1]
    second = first - first[:, :, :1, :1]
    assert second.abs().max() < 1e-9
    assert first.std() > 0.1
    assert (logits - logits[:, :, :1, :1]).std() > 0.1


def test_the_spatial_branch_sees_twentyfive_places_four_apart(block: BAM) -> None:
    for weight in block.spatial.parameters():
        nn.init.ones_(weight)  # so that no ReLU and no sum hides a place
    x = torch.rand(1, 64, 21, 21, requires_grad=True)
    block.eval().spatial(x)[0, 0, 10, 10].backward()
    seen = x.grad.abs().sum(dim=(0, 1)) > 0
    expected = torch.zeros(21, 21, dtype=torch.bool)
    expected[2:19:4, 2:19:4] = True
    assert torch.equal(seen, expected)


def test_with_its_last_batch_norms_at_zero_every_value_is_half_as_large_again(
    block: BAM,
) -> None:
    nn.init.zeros_(block.channel[-1].weight)
    nn.init.zeros_(block.spatial[-1].weight)
    torch.testing.assert_close(block(IMAGES), 1.5 * IMAGES)


def test_gradients_reach_every_parameter(block: BAM) -> None:
    block(IMAGES).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in block.parameters())


def test_a_block_that_starts_at_zero_still_learns(block: BAM) -> None:
    nn.init.zeros_(block.channel[-1].weight)
    nn.init.zeros_(block.spatial[-1].weight)
    (block(IMAGES) * torch.randn(IMAGES.shape)).mean().backward()
    assert block.channel[-1].weight.grad.any()
    assert block.spatial[-1].weight.grad.any()


def test_with_two_images_the_channel_branch_sees_only_which_is_larger(
    block: BAM,
) -> None:
    """What the page warns of: a batch norm of two numbers gives minus one and one."""
    block.double()
    first, step = torch.randn(2, 64, 1, 1, dtype=torch.float64)
    near = block.channel(torch.stack([first, first + 10 * step]))
    far = block.channel(torch.stack([first, first + 1000 * step]))
    torch.testing.assert_close(near, far, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        block(IMAGES[:1].double())


def test_the_bottleneck_has_the_papers_width_and_never_less_than_four() -> None:
    assert BAM(512).channel[0][0].out_channels == 32
    widths = {BAM(c).spatial[0][0].out_channels for c in (16, 64)}
    assert widths == {4}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [((0,), "channels=0"), ((64, 0), "reduction=0"), ((64, 16, 0), "dilation=0")],
)
def test_refuses_sizes_below_one(arguments: tuple, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        BAM(*arguments)


@pytest.mark.parametrize("shape", [(64, 8, 8), (1, 32, 8, 8), (1, 64)])
def test_refuses_inputs_of_another_shape(block: BAM, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 64, H, W\)"):
        block(torch.zeros(shape))


def at_bottlenecks() -> nn.Module:
    """A ResNet-50 with BAM where the authors' code puts it: at the end of stages 1 to 3."""
    network = resnet50()
    for number, channels in ((1, 256), (2, 512), (3, 1024)):
        stage = network.get_submodule(f"layer{number}")
        network.add_module(f"layer{number}", nn.Sequential(stage, BAM(channels)))
    return network


def test_cost_beside_the_network_it_is_put_into(evidence) -> None:
    networks: dict[str, tuple[str, Callable[[], nn.Module]]] = {
        "resnet50": ("ResNet-50", resnet50),
        "bam_resnet50": ("+ BAM after stages 1 to 3", at_bottlenecks),
        "bam_every_block": (
            "+ BAM in every block",
            lambda: ResNet(Bottleneck, (3, 4, 6, 3), attention=BAM),
        ),
    }
    rows = {}
    for key, (name, make) in networks.items():
        with torch.device("meta"):
            spent = model_cost(make().eval(), torch.empty(1, 3, 224, 224))
        rows[key] = {
            "name": name,
            "params": spent.params,
            "macs": spent.macs,
            "saved_bytes": spent.saved_bytes,
        }
    base = rows["resnet50"]
    for row in rows.values():
        for cost in ("params", "macs", "saved_bytes"):
            row[f"more_{cost}"] = row[cost] / base[cost] - 1
    evidence.computed("cost", rows)


# ---------------------------------------------------------------- the bench


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm(
        "BAM",
        network=lambda: bench.network(BAM),
    )


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ["bam"]))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ["bam"])
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ["bam"])
    evidence.measured("time", arguments={}, run=run)
