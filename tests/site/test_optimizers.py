"""What every optimizer does alike: torch's contract of `step`, for each class that the category has."""

import inspect

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cnn_techniques import optimization

KINDS = [
    kind
    for _, kind in inspect.getmembers(optimization, inspect.isclass)
    if issubclass(kind, Optimizer) and kind is not optimization.SAM  # has no gradients of its own
]  # fmt: skip


def test_the_category_has_optimizers() -> None:
    assert optimization.AdamW in KINDS
    assert len(KINDS) >= 8


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_without_a_gradient_are_left_alone(kind: type) -> None:
    with_one, without = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = kind([with_one, without], lr=0.1, weight_decay=0.5)
    with_one.sum().backward()
    optimizer.step()
    assert (with_one < 1).all()
    assert torch.equal(without, torch.ones(2))
    assert without not in optimizer.state


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_stays_as_it_is(kind: type) -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    weight.grad = torch.arange(6.0).view(2, 3)
    kind([weight], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(weight.grad, torch.arange(6.0).view(2, 3))


@pytest.mark.parametrize("kind", KINDS)
def test_the_closure_is_called_once_with_gradients_and_its_loss_comes_back(
    kind: type,
) -> None:
    weight, calls = nn.Parameter(torch.tensor([2.0])), []
    optimizer = kind([weight], lr=0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        calls.append(loss)
        return loss

    assert optimizer.step(closure) == 4.0
    assert len(calls) == 1
    assert weight < 2.0
