"""An approximation's noise is told per layer; a network that was not changed, or is too far, is refused."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cnn_site import pages
from cnn_site.approximation import Approximation, approximate
from cnn_site.directives import Page, render
from cnn_site.evidence import Evidence, StaleRecord, load
from cnn_site.laws import every, gradient_reaches_every_parameter
from cnn_site.pages import SiteError

IMAGES = torch.randn(2, 3, 9, 11, generator=torch.Generator().manual_seed(0))


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 7 * 9, 5)
    )


def rounded(model: nn.Module, bits: int, kinds: type = nn.Module) -> nn.Module:
    """Weights on an even grid of 2^bits values."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, kinds) and hasattr(module, "weight"):
            step = module.weight.data.abs().max() / 2 ** (bits - 1)
            module.weight.data = (module.weight.data / step).round() * step
    return model


def test_a_bit_is_worth_six_decibels() -> None:
    model = network()
    few, many = (approximate(rounded(model, b), model, IMAGES, least=10) for b in (6, 10))  # fmt: skip
    assert list(few.layers) == ["0", "3"]
    for name in few.layers:
        assert many.layers[name] - few.layers[name] == pytest.approx(4 * 6.02, abs=3)
    assert many.snr > few.snr
    assert many.output < few.output
    assert (few.shape, few.dtype, few.bounds) == ([2, 3, 9, 11], "float32", {"snr": 10})


def test_the_ratio_is_that_of_noise_of_a_known_size() -> None:
    class Times(nn.Linear):
        factor = 1.0

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.factor

    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), Times(2 * 7 * 9, 4))
    other = copy.deepcopy(model)
    other[2].factor = 0.9  # noise of a tenth of the signal: 20 dB
    found = approximate(other, model, IMAGES, least=19)
    assert found.snr == pytest.approx(20, abs=1e-4)
    assert found.output == pytest.approx(0.1, abs=1e-6)
    assert found.layers == {"0": None, "2": pytest.approx(20, abs=1e-4)}


def test_too_much_noise_an_unchanged_network_and_a_missing_layer_are_refused() -> None:
    model = network()
    with pytest.raises(AssertionError, match=r"of \d+\.\d dB, at least 60 dB"):
        approximate(rounded(model, 6), model, IMAGES, least=60)
    with pytest.raises(AssertionError, match="equal to the last bit"):
        approximate(copy.deepcopy(model), model, IMAGES, least=20)
    with pytest.raises(LookupError, match="no layer '3' for '3'"):
        approximate(rounded(model, 8)[:3], model, IMAGES, least=20)
    broken, dead = rounded(model, 8), network()
    nn.init.constant_(broken[3].bias, float("nan"))
    with pytest.raises(AssertionError, match="the output is not finite"):
        approximate(broken, model, IMAGES, least=20)
    nn.init.zeros_(dead[3].weight), nn.init.zeros_(dead[3].bias)
    with pytest.raises(AssertionError, match="the original is not alive"):
        approximate(rounded(model, 8), dead, IMAGES, least=20)
    with pytest.raises(ValueError, match="no layer of type"):
        approximate(rounded(model, 8), model, IMAGES, least=20, layers=nn.LSTM)


def test_layers_of_other_names_are_paired() -> None:
    class Wrapped(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x)

    model, names = network(), {"0": "model.0", "3": "model.3"}
    found = approximate(
        Wrapped(rounded(model, 8)), model, IMAGES, least=20, names=names
    )
    assert list(found.layers) == ["0", "3"]


def some(snr: float = 41.5, layers: tuple[str, ...] = ("conv", "fc")) -> Approximation:
    told = {name: 30.0 + n for n, name in enumerate(layers)} | {"first": None}
    return Approximation(snr, 0.01, told, "float32", [2, 3, 9, 11], {"snr": 30.0})


def test_the_record_is_stale_by_layers_and_bounds_and_not_by_the_size_of_the_noise(
    tmp_path: Path,
) -> None:
    facts = {"reference": "the float32 network", "settings": "int8"}
    Evidence("modern/resnet", True, tmp_path).approximated("int8", some(), **facts)
    row = load("modern/resnet", tmp_path)["approximation"]["int8"]
    assert (row["snr"], row["layers"]["first"]) == (41.5, None)
    held = Evidence("modern/resnet", False, tmp_path)
    held.approximated("int8", some(snr=39.9), **facts)
    with pytest.raises(StaleRecord, match="layers"):
        held.approximated("int8", some(layers=("conv", "head")), **facts)
    with pytest.raises(StaleRecord, match="settings"):
        held.approximated("int8", some(), reference=facts["reference"], settings="")


def test_the_page_shows_output_and_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        **vars(some()), "reference": "the float32 network", "settings": "int8",
        "date": "2026-01-01", "torch": "2.14.1+cpu",
    }  # fmt: skip
    record = {"approximation": {"int8": row}}
    monkeypatch.setattr(pages.Technique, "record", property(lambda t: record))
    here = Page("https://example.org/", "", "modern/resnet")
    html = render(here, "approximation", ["int8"], None)
    assert '<th scope="row">Output</th><td>41.5</td>' in html
    assert "<code>conv</code></th><td>30.0</td>" in html
    assert "<code>first</code></th><td>equal</td>" in html
    assert "at least 30 dB" in html
    with pytest.raises(SiteError, match="no approximation 'int4'; there is int8"):
        render(here, "approximation", ["int4"], None)
    with pytest.raises(SiteError, match="needs a name; there is int8"):
        render(here, "approximation", [], None)


def test_every_names_the_layers_that_were_forgotten() -> None:
    model = network()

    def on_a_grid(module: nn.Module) -> bool:
        return len(module.weight.unique()) <= 2**4 + 1

    kinds = (nn.Conv2d, nn.Linear)
    assert every(rounded(model, 4), kinds, on_a_grid) == 2
    with pytest.raises(AssertionError, match="1 of 2 modules break the law: 3"):
        every(rounded(model, 4, nn.Conv2d), kinds, on_a_grid)
    with pytest.raises(AssertionError, match="has no module of type"):
        every(model, nn.LSTM, on_a_grid)


def test_a_parameter_without_a_gradient_is_named() -> None:
    class Detached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(3, 3, bias=False) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) + self.b(x).detach() + 0 * self.c(x)

    gradient_reaches_every_parameter(nn.Linear(3, 2), torch.randn(2, 3))
    with pytest.raises(AssertionError, match=r"no gradient reaches b.weight, c.weight"):
        gradient_reaches_every_parameter(Detached(), torch.randn(2, 3))
