"""Figures with options: their stills show torch's rates, torch's Beta and real digits."""

import base64
import io
import re

import pytest
import torch
from torch.optim import SGD, lr_scheduler

from cnn_lab.data import digits
from cnn_site.directives import DIRECTIVES, Page
from cnn_site.directives import widgets as made
from cnn_site.pages import SiteError

PAGE = Page("", "")
DEFAULTS = {name: option.value for name, option in made.OPTIONS.items()}


def shown(*arguments: str, settings: dict[str, float] | None = None) -> str:
    return DIRECTIVES["widget"](PAGE, list(arguments), settings)


def of_torch(line: str, lr: float, steps: int) -> list[float]:
    """The rates that the line on the page gives."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = eval(line, {**vars(lr_scheduler), "optimizer": optimizer})
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < steps:
            schedule.step()
    return rates


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")  # SequentialLR's
@pytest.mark.parametrize("kind", made.SCHEDULES)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eta_min": 0.001, "T_max": 40, "T_0": 7, "T_mult": 1, "gamma": 0.5},
        {"lr": 3e-4, "steps": 97, "step_size": 9, "warmup": 1, "pct_start": 0.25},
        {"steps": 20, "T_mult": 3, "T_0": 1, "warmup": 19, "pct_start": 0.1, "div_factor": 4},
    ],
)  # fmt: skip
def test_the_line_of_a_schedule_gives_the_rates_that_are_drawn(
    kind: str, settings: dict[str, float]
) -> None:
    o = DEFAULTS | settings
    line = made.SCHEDULES[kind].line.format(**{k: f"{v:g}" for k, v in o.items()})
    expected = of_torch(line, o["lr"], int(o["steps"]))
    assert made.rates(kind, o) == pytest.approx(expected, rel=1e-9, abs=1e-12 * o["lr"])


def test_the_still_figure_draws_every_step_and_says_its_options() -> None:
    text = shown("schedule", "restarts", settings={"steps": 30, "eta_min": 0.01})
    path = re.search(r"class=&#34;curve&#34;[^/]* d=&#34;M([^&]+)", text)
    assert path is not None
    points = [tuple(map(float, point.split())) for point in path[1].split("L")]
    line = re.search(r"<code>(.*)</code>", text)
    assert line is not None
    assert line[1].endswith("(optimizer, T_0=10, T_mult=2, eta_min=0.01)")
    expected = of_torch(line[1], 0.1, 30)
    assert [t for t, _ in points] == list(range(30))
    assert [-y for _, y in points] == pytest.approx(expected, rel=1e-8)
    assert f"Step 15: rate {made.short(expected[15])}<" in text


@pytest.mark.parametrize("alpha", made.ALPHAS)
def test_density_and_mean_share_are_those_of_torch_and_of_an_integral(
    alpha: float,
) -> None:
    a = torch.tensor(alpha, dtype=torch.float64)
    at = torch.tensor(made.POINTS, dtype=torch.float64)
    expected = torch.distributions.Beta(a, a).log_prob(at).exp()
    assert [made.density(alpha, x) for x in made.POINTS] == pytest.approx(
        expected.tolist(), rel=1e-9
    )
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    share = u**10 / 2  # no pole at 0 is left
    weight = torch.distributions.Beta(a, a).log_prob(share).exp() * u**9
    mean = float(((1 - share) * weight).sum() / weight.sum())
    assert made.larger_share(alpha) == pytest.approx(mean, rel=1e-4)


def test_the_digits_are_those_of_the_figure_above_them() -> None:
    image = pytest.importorskip("PIL.Image")
    images, names = digits("train")
    pictures = re.findall(r"data:image/png;base64,([^&]+)", shown("mixup"))
    for n, picture in enumerate((pictures[0], pictures[1])):
        levels = images[int((names == n).nonzero()[0]), 0]
        greys = image.open(io.BytesIO(base64.b64decode(picture)))
        expected = (255 * (1 - levels)).round().to(torch.uint8)
        assert greys.size == (8, 8)
        assert list(greys.tobytes()) == expected.flatten().tolist()


@pytest.mark.parametrize(
    ("x", "text"),
    [(0.1, "0.1"), (2.4674e-5, "0.0000247"), (4e-7, "4e−7"), (1.25e-9, "1.25e−9"), (0, "0"), (1234, "1230"), (float("inf"), "∞")],
)  # fmt: skip
def test_a_number_is_written_as_the_script_does(x: float, text: str) -> None:
    assert made.short(x) == text


@pytest.mark.parametrize(
    ("arguments", "settings", "says"),
    [
        ([], None, "unknown widget ''; expected one of schedule, mixup"),
        (["dial"], None, "unknown widget 'dial'"),
        (["schedule", "linear"], None, "unknown schedule 'linear'; expected one of"),
        (["schedule"], {"T_min": 3}, "unknown option 'T_min'; expected one of lr"),
        (["mixup"], {"alpha": 3}, "takes no options"),
    ],
)
def test_what_is_no_widget_is_refused(
    arguments: list[str], settings: dict[str, float] | None, says: str
) -> None:
    with pytest.raises(SiteError, match=re.escape(says)):
        shown(*arguments, settings=settings)
