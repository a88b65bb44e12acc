"""One walk through everything that networks take and return."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from cnn_site.trees import flatten, mapped


class Pair(NamedTuple):
    first: Tensor
    second: int


@dataclass(frozen=True)
class Found:
    boxes: list[Tensor]
    name: None = None


X = torch.ones(2)
TREE = {"a": [X, (X, 3)], "b": Pair(X, 4), "c": OrderedDict(d=Found([X])), "e": 0.5}


def test_every_tensor_and_number_has_its_path() -> None:
    flat = flatten(TREE)
    assert list(flat) == ["a.0", "a.1.0", "a.1.1", "b.0", "b.1", "c.d.boxes.0", "e"]
    assert (flat["a.1.1"].dtype, flat["e"].dtype) == (torch.int64, torch.float64)
    assert list(flatten(X)) == ["output"]
    with pytest.raises(TypeError, match=r"cannot compare str at a\.0"):
        flatten({"a": ["text"]})


def test_a_mapped_tree_has_the_same_structure_and_types() -> None:
    def twice(leaf: object) -> object:
        return leaf if leaf is None else 2 * leaf

    made = mapped(TREE, twice)
    assert type(made["a"][1]) is tuple
    assert type(made["b"]) is Pair
    assert type(made["c"]) is OrderedDict
    assert type(made["c"]["d"]) is Found
    assert made["c"]["d"].name is None
    assert all(torch.equal(v, 2 * flatten(TREE)[k]) for k, v in flatten(made).items())
