"""What the proof of every network holds beside its own laws, as one declaration.

test_equal, test_gradients, test_learns, test_speed = network_proof(
    VARIANTS, images=(2, 3, 48, 64), small=lambda: GhostNet(10, width=0.5)
)
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pytest
import torch
from torch import nn

from . import ROOT
from .laws import gradient_reaches_every_parameter
from .speed import beside_its_reference, timing
from .variants import Variant, dotted, each_variant, without_drawing

Json = dict[str, Any]
Test = Callable[..., None]
LEARNERS = {
    "digits": "cnn_lab.trial.learn_digits",
    "one batch": "cnn_lab.trial.learn_by_heart",
}


class NetworkProof(NamedTuple):
    """The tests that a proof file takes over; None: not asked for, and not collected by pytest."""

    equal: Test | None
    gradients: Test | None
    learns: Test | None
    speed: Test | None


def network_proof(
    variants: Sequence[Variant],
    *,
    images: Sequence[int] | Callable[[Variant], Sequence[int]] | None,
    settings: str = "",
    small: Callable[[], nn.Module] | Sequence[Callable[[], nn.Module]] | None,
    small_images: Sequence[int] = (4, 3, 64, 96),
    smallest: Variant | None = None,
    learns: Literal["digits", "one batch"] = "digits",
    recipe: Mapping[str, Any] | None = None,
    network: Callable[..., nn.Module] | None = None,
    options: Mapping[str, Any] | None = None,
    speed: Sequence[int] | None = (2, 3, 128, 128),
) -> NetworkProof:
    """Four tests of a family of networks; the last two make costly records (marker `record`).

    Equal: each variant computes what its reference computes. Gradients: one reaches every parameter of a small network.
    Learns: the smallest variant learns the digits, or one batch of them, with three seeds. Speed: it is timed beside
    its reference.

    Args:
        variants: of which those with a reference are compared.
        images: shape of the images for the comparison, or a function of the variant; None: the file compares itself.
        settings: what the record says of the comparison besides the variant's own.
        small: makes a narrow network, or several; None: the file has its own test.
        small_images: what it sees.
        smallest: the variant that is trained and timed, if it is not the first.
        learns: "one batch" for networks too heavy for three epochs.
        recipe: further arguments of `cnn_lab.trial.learn_digits` or `learn_by_heart`, as {"pixels": 64}.
        network: makes the network that learns, if it is not the smallest variant's function.
        options: of it, besides its ten classes.
        speed: shape of the images for the timing; None, or no reference: not timed.
    """
    first = smallest or variants[0]
    with_reference = [variant for variant in variants if variant.reference]
    makers = [small] if callable(small) else list(small or ())
    learning = {
        "key": first.key,
        "name": first.title,
        "network": dotted(network or first.make),
        "learner": LEARNERS[learns],
        "options": {"num_classes": 10, **(options or {})},
        "settings": dict(recipe or {}),
        "seeds": [0, 1, 2],
    }

    @each_variant(with_reference)
    def equal(variant: Variant, evidence: Any) -> None:
        shape = images(variant) if callable(images) else images
        variant.check_equal(evidence, torch.randn(tuple(shape or ())), settings)

    @pytest.mark.parametrize("make", makers, ids=map(str, range(len(makers))))
    def gradients(make: Callable[[], nn.Module]) -> None:
        model = make()
        without_drawing(model)
        gradient_reaches_every_parameter(model, torch.randn(tuple(small_images)))

    @pytest.mark.record
    def learn_seeds(evidence: Any) -> None:
        evidence.measured("learns", arguments=learning, run=learn)

    @pytest.mark.record
    def time_both(evidence: Any) -> None:
        arguments = timing(first, speed or ())
        evidence.measured("speed", arguments=arguments, run=beside_its_reference)

    return NetworkProof(
        equal=equal if with_reference and images else None,
        gradients=gradients if makers else None,
        learns=learn_seeds,
        speed=time_both if first.reference and speed else None,
    )


def learn(
    key: str,
    name: str,
    network: str,
    learner: str,
    options: Json,
    settings: Json,
    seeds: list[int],
) -> Json:
    """Train a network with every seed, resumable: the rows that pages show.

    Args:
        key: of its row.
        name: its name on pages.
        network: dotted name of the function or class that makes it.
        learner: dotted name of the function that trains it, `learner(network, **settings, seed=seed)`.
        options: of the network.
    """
    from cnn_lab.trial import trials

    arguments = {
        "network": network,
        "learner": learner,
        "options": options,
        "settings": settings,
    }
    cache = ROOT / ".cache" / "record" / f"{key}.jsonl"
    return trials(learn_once, seeds, cache, {key: (name, arguments)})


def learn_once(
    network: str, learner: str, options: Json, settings: Json, seed: int
) -> Json:
    """Train a network from the initial weights of one seed."""
    make, train = _named(network), _named(learner)
    torch.manual_seed(seed)
    result: Json = train(make(**options), **settings, seed=seed)
    return result


def _named(place: str) -> Callable[..., Any]:
    module, _, name = place.rpartition(".")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function
