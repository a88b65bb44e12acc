"""The equivalence helper is worth what it refuses: faults are planted, each must be seen."""

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.equivalence import Comparison, compare, difference

INPUT = (2, 3, 16, 20)


class Net(nn.Module):
    """A residual network with a second head; each keyword plants one fault."""

    def __init__(
        self,
        eps: float = 1e-5,
        bias: bool = True,
        strides: tuple[int, int] = (2, 1),
        momentum: float = 0.1,
        swapped: bool = False,
        detached: bool = False,
        ignored: bool = False,
        dropout: float = 0.0,
        name: str = "conv1",
    ) -> None:
        super().__init__()
        self.first = name
        self.add_module(name, nn.Conv2d(3, 8, (3, 1), stride=strides[0], padding=1))
        self.norm = nn.BatchNorm2d(8, eps=eps, momentum=momentum)
        self.conv2 = nn.Conv2d(8, 8, (3, 1), stride=strides[1], padding=1)
        self.skip = nn.Conv2d(8, 8, 1)
        self.gate = nn.Parameter(
            torch.zeros(8, 1, 1)
        )  # zero at the start: default values would hide the branch
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(8, 5, bias=bias)
        self.rows = nn.Linear(8, 2)
        self.swapped, self.detached, self.ignored = swapped, detached, ignored

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        if self.ignored:
            x = x[:1].expand_as(x)
        y = F.relu(self.norm(self.get_submodule(self.first)(x)))
        branch = self.conv2(F.pad(y, (1, 1)))
        skip = F.interpolate(self.skip(y), size=branch.shape[2:])
        y = skip + self.gate * (branch.detach() if self.detached else branch)
        rows = y.mean(dim=2 if self.swapped else 3)[..., :8].transpose(1, 2)
        return {
            "classes": self.head(self.drop(F.relu(y).mean(dim=(2, 3)))),
            "aux": [self.rows(rows)],
        }


def images() -> Tensor:
    return torch.randn(INPUT, generator=torch.Generator().manual_seed(1))


def test_the_same_network_passes_with_small_differences() -> None:
    result = compare(Net(), Net(), images())
    assert isinstance(result, Comparison)
    assert result.output <= 1e-10
    assert result.gradient is not None
    assert result.gradient <= 1e-8
    assert result.buffers is not None
    assert result.buffers <= 1e-10
    assert (result.dtype, result.shape, result.modes) == (
        "float64",
        list(INPUT),
        ["evaluation", "training"],
    )
    assert result.parameters == sum(p.numel() for p in Net().parameters())
    assert result.tensors == len(Net().state_dict())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"eps": 1e-3}, "differs by"),
        ({"bias": False}, r"missing \['head.bias'\]"),
        ({"swapped": True}, r"aux.0|is torch.float64 of shape"),
        ({"strides": (1, 2)}, "differs by|of shape"),
        ({"momentum": 0.01}, r"buffer norm.running_mean in training mode differs"),
        ({"detached": True}, r"gradient of (conv2|gate|conv1|norm|input)"),
        ({"ignored": True}, r"(aux.0|classes) in evaluation mode differs"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_planted_fault_is_refused(fault: dict[str, object], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        compare(Net(**fault), Net(), images())  # type: ignore[arg-type]


def test_a_stride_on_the_wrong_convolution_is_seen_where_shapes_agree() -> None:
    def block(first: int, second: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 1, stride=first, bias=False), nn.ReLU(),
            nn.Conv2d(8, 8, 3, stride=second, padding=1, bias=False), nn.Flatten(2),
        )  # fmt: skip

    with pytest.raises(AssertionError, match="output in evaluation mode differs"):
        compare(block(2, 1), block(1, 2), images())


def test_swapped_height_and_width_are_seen_where_shapes_agree() -> None:
    class Pool(nn.Module):
        def __init__(self, swapped: bool) -> None:
            super().__init__()
            self.head, self.swapped = nn.Linear(3, 4), swapped

        def forward(self, x: Tensor) -> Tensor:
            x = x.transpose(2, 3) if self.swapped else x
            return self.head(F.adaptive_avg_pool2d(x, (2, 3))[:, :, 0, 1])

    with pytest.raises(AssertionError, match="output in evaluation mode differs"):
        compare(Pool(True), Pool(False), images())


def test_every_tensor_is_drawn_so_a_gate_that_starts_at_zero_hides_nothing() -> None:
    ours, reference = Net(), Net()
    compare(ours, reference, images())
    for name, value in reference.state_dict().items():
        if value.is_floating_point():
            assert value.abs().min() > 0, name
        assert torch.equal(value, ours.state_dict()[name]), name


def test_networks_with_other_names_are_paired_by_order() -> None:
    with pytest.raises(AssertionError, match="missing"):
        compare(Net(name="stem"), Net(), images())
    assert compare(Net(name="stem"), Net(), images(), match="order").output <= 1e-10


def test_order_needs_the_same_number_and_the_same_shapes() -> None:
    with pytest.raises(AssertionError, match="1 parameters, the reference has 2"):
        compare(
            nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(3, 4, 1), images(), match="order"
        )
    with pytest.raises(
        AssertionError, match=r"parameter weight has shape \(4, 3, 3, 1\)"
    ):
        compare(
            nn.Conv2d(3, 4, (3, 1)), nn.Conv2d(3, 4, (1, 3)), images(), match="order"
        )


def test_a_dead_reference_is_refused() -> None:
    class Dead(nn.Module):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.conv, self.factor = nn.Conv2d(3, 4, 1), factor

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) * self.factor

    for factor in (1e-9, 1e9):
        with pytest.raises(
            AssertionError, match="the reference is not alive: the largest entry"
        ):
            compare(Dead(factor), Dead(factor), images())
    with pytest.raises(AssertionError, match="two different images"):
        compare(Net(ignored=True), Net(ignored=True), images())


def test_dropout_is_drawn_alike_on_both_sides_or_named_as_a_possible_cause() -> None:
    assert compare(Net(dropout=0.5), Net(dropout=0.5), images()).output <= 1e-10
    with pytest.raises(AssertionError, match=r"ours: drop is Dropout with rate 0.5"):
        compare(Net(dropout=0.5), Net(), images())
    assert compare(Net(dropout=0.5), Net(), images(), train=False).modes == [
        "evaluation"
    ]


def test_float32_compares_outputs_in_evaluation_only() -> None:
    result = compare(Net(), Net(), images(), train=False, dtype=torch.float32)
    assert (result.gradient, result.buffers, result.dtype) == (None, None, "float32")
    with pytest.raises(ValueError, match="float32 is for train=False only"):
        compare(Net(), Net(), images(), dtype=torch.float32)
    with pytest.raises(AssertionError, match="differs by"):
        compare(Net(eps=1e-2), Net(), images(), train=False, dtype=torch.float32)


def test_inputs_that_prove_little_are_refused() -> None:
    with pytest.raises(ValueError, match=r"batch of \(1, 3, 16, 20\)"):
        compare(Net(), Net(), images()[:1])
    with pytest.raises(ValueError, match="square"):
        compare(Net(), Net(), images()[..., :16])
    with pytest.raises(ValueError, match="match must be"):
        compare(Net(), Net(), images(), match="shape")  # type: ignore[arg-type]


def test_outputs_of_different_structure_are_picked_on_each_side() -> None:
    pick = (lambda out: out["classes"], lambda out: out["classes"])
    assert compare(Net(), Net(), images(), outputs=pick).output <= 1e-10
    with pytest.raises(AssertionError, match="outputs in evaluation mode are"):
        compare(
            Net(),
            Net(),
            images(),
            outputs=(lambda out: out, lambda out: out["classes"]),
        )


def test_inputs_may_be_nested_and_layers_in_place() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.relu, self.conv = nn.ReLU(inplace=True), nn.Conv2d(3, 4, 1)

        def forward(self, maps: dict[str, Tensor], extra: list[Tensor]) -> Tensor:
            return self.conv(self.relu(maps["a"]) + extra[0])

    result = compare(Sum(), Sum(), (OrderedDict(a=images()), [images()]))
    assert result.gradient is not None


def test_the_default_precision_is_put_back() -> None:
    compare(Net(), Net(), images())
    assert torch.get_default_dtype() == torch.float32


def test_functions_are_compared_by_pairs_of_tensors() -> None:
    x = torch.rand(4, 3, dtype=torch.float64)
    result = difference(
        {"loss": (x, x + 1e-12), "labels": (x > 0.5, x > 0.5)},
        shape=x.shape,
        modes=["mean"],
    )
    assert 0 < result.output < 1e-10
    assert (result.gradient, result.dtype, result.shape) == (None, "float64", [4, 3])
    with pytest.raises(AssertionError, match="loss differs by 1e-06"):
        difference({"loss": (x, x + 1e-6)})
    with pytest.raises(AssertionError, match="labels: 1 of 2 entries differ"):
        difference({"labels": (torch.tensor([1, 2]), torch.tensor([1, 3]))})
    with pytest.raises(AssertionError, match="gradient of x differs"):
        difference({"loss": (x, x)}, {"x": (x, x * (1 + 1e-6))})
    with pytest.raises(AssertionError, match="nothing but zeros"):
        difference({"loss": (x * 0, x * 0)})
    with pytest.raises(AssertionError, match="float32"):
        difference({"loss": (x.float(), x)})


class Detector(nn.Module):
    """Takes and returns lists, one entry per image; in training a loss over two proposals drawn at random."""

    def __init__(self, ignored: bool = False, eager: bool = False) -> None:
        super().__init__()
        self.conv, self.ignored, self.eager = nn.Conv2d(3, 4, 3), ignored, eager

    def forward(self, images: list[Tensor]) -> Any:
        if self.ignored:
            images = [images[0] for _ in images]
        found = [self.conv(image[None])[0].flatten(1).T for image in images]
        if not self.training:
            return [{"features": rows.mean(0)} for rows in found]
        if self.eager:
            torch.rand(1)  # draws once more than the reference
        rows = found[0]
        return {"loss": rows[torch.randperm(len(rows))[:2]].square().mean()}


def list_of_images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, 8, w, generator=generator) for w in (9, 11)]


def test_a_list_of_images_is_a_batch_and_sampled_losses_are_drawn_alike() -> None:
    result = compare(Detector(), Detector(), ([*list_of_images()],))
    assert result.shape == [2, 3, 8, 9]
    assert result.gradient is not None
    with pytest.raises(AssertionError, match=r"0\.features of two different images"):
        compare(Detector(ignored=True), Detector(ignored=True), ([*list_of_images()],))
    with pytest.raises(AssertionError, match=r"1\.features in evaluation mode differs"):
        compare(Detector(ignored=True), Detector(), ([*list_of_images()],))
    with pytest.raises(AssertionError, match="loss in training mode differs"):
        compare(Detector(eager=True), Detector(), ([*list_of_images()],))
    with pytest.raises(ValueError, match=r"batch of \(1, 3, 8, 9\)"):
        compare(Detector(), Detector(), (list_of_images()[:1],))
    with pytest.raises(ValueError, match="square"):
        compare(Detector(), Detector(), ([x[..., :8] for x in list_of_images()],))


def test_seeded_passes_leave_the_callers_draws_alone() -> None:
    ours, theirs, given = Detector(), Detector(), list_of_images()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    compare(ours, theirs, (given,))
    assert torch.equal(torch.rand(1), expected)


def test_that_parameters_were_paired_by_order_is_told_by_the_helper() -> None:
    paired = compare(Net(name="stem"), Net(), images(), match="order").settings
    assert paired == ["parameters paired by order"]
    assert compare(Net(), Net(), images()).settings == []
