"""An edit of what a result was computed by changes its fingerprint, on every floor; any other edit does not."""

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cnn_lab.fingerprint import fingerprint, fingerprint_of, made_by, reached
from cnn_site import ROOT
from cnn_site.variants import Variant
from cnn_techniques.modern import ResNet

FILES = {
    "tests/attention/test_gate.py": '''
from functools import partial

import cnn_lab.trial as learning
from cnn_lab.trial import trials
from cnn_site.speed import Variant, beside
from cnn_techniques import attention
from cnn_techniques.attention import Gate

RATE = 0.1
NAME = "a text"
SHARED: int = 3
pytestmark = []


class Network(Gate):
    depth = 2

    def forward(self, x):
        return x * self.depth


class Case:
    def run(self):
        return "run"

    def other(self):
        return "other"


def helper():
    return "helper"


def unrelated():
    return "unrelated"


def measure(seeds):
    """How it is measured."""
    if seeds < 1:
        raise ValueError(f"no seeds: {seeds}")
    from cnn_lab.data import digits as images

    def loss(x):
        return helper() + x  # only here

    if seeds > 1:
        if seeds > 9:
            raise ValueError(f"too many: {seeds}")
    rates = [lambda: RATE, NAME]
    return trials(partial(loss, rates), Network(), images, Case().run(), learning.late)


def measure_speed(shape):
    return beside(Variant(Gate), shape)


def measure_named(make):
    return learning.build(make)


def measure_command(command):
    return [command, "-m", "cnn_lab"]


test_made, test_fast = learning.proof(Gate, small=lambda: SHARED)
''',
    "src/cnn_techniques/__init__.py": "",
    "src/cnn_techniques/attention/__init__.py": (
        "from .gate import Gate as Gate\nfrom .unused import Unused as Unused\n"
    ),
    "src/cnn_techniques/attention/gate.py": '''
"""Idea."""

import torch.nn.functional as F

from cnn_techniques.attention.unused import block


class Gate:
    """A gate."""

    value = 1

    def __call__(self, x):
        return F.relu(block(x))
''',
    "src/cnn_techniques/attention/unused.py": """
class Unused:
    width = 4


def block(x):
    return x + 5
""",
    "src/cnn_lab/__init__.py": "",
    "src/cnn_lab/__main__.py": """
from .cli import main

if __name__ == "__main__":
    main()
""",
    "src/cnn_lab/cli.py": """
import typer

app = typer.Typer()


def main():
    return app()


@app.command("train")
def train_command():
    return "trained"


@app.command("export")
def export_command():
    return "exported"
""",
    "src/cnn_lab/data.py": "def digits():\n    return 1797\n",
    "src/cnn_lab/trial.py": """
import importlib

from .data import digits

WEIGHT_DECAY = 0.01
torch.set_num_threads(1)


def trials(*given):
    return given, WEIGHT_DECAY


def late():
    return "late"


def build(name):
    return getattr(importlib.import_module("cnn_techniques.attention"), name)


def proof(make, small):
    def test():
        return make, small, digits()

    return test, test
""",
    "src/cnn_site/__init__.py": "",
    "src/cnn_site/speed.py": """
import sys

PROCESSES, PAIRS = 3, 7
LEAST = 0.15


class Variant:
    def __init__(self, make):
        self.make = make

    def compare(self):
        return "compared"


def beside(variant, shape):
    return [variant.make.__name__, [sys.executable, "-m", "cnn_site.speed"]] * PROCESSES


def one():
    return LEAST


if __name__ == "__main__":
    print(one())
""",
}
PROOF, GATE = "tests/attention/test_gate.py", "src/cnn_techniques/attention/gate.py"
UNUSED, TRIAL = "src/cnn_techniques/attention/unused.py", "src/cnn_lab/trial.py"
SPEED, CLI = "src/cnn_site/speed.py", "src/cnn_lab/cli.py"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def edit(repository: Path, file: str, old: str, new: str) -> None:
    path = repository / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize(
    ("function", "file", "old", "new", "stale"),
    [
        # words and input checks
        ("measure", PROOF, "# only here", "# another comment", False),
        ("measure", PROOF, "How it is measured.", "Other words.", False),
        ("measure", PROOF, "no seeds:", "need one seed:", False),
        ("measure", PROOF, "if seeds < 1:", "if seeds < 2:", False),
        ("measure", PROOF, "if seeds > 1:", "if seeds > 2:", False),
        ("measure", GATE, "A gate.", "Another word.", False),
        # the proof: closures, lambdas, classes, constants
        ("measure", PROOF, '"helper"', '"changed"', True),
        ("measure", PROOF, "RATE = 0.1", "RATE = 0.2", True),
        ("measure", PROOF, '"a text"', '"another text"', True),
        ("measure", PROOF, "depth = 2", "depth = 3", True),
        ("measure", PROOF, "x * self.depth", "x + self.depth", True),
        ("measure", PROOF, 'return "run"', 'return "walk"', True),
        ("measure", PROOF, 'return "other"', 'return "changed"', False),
        ("measure", PROOF, '"unrelated"', '"changed"', False),
        ("measure", PROOF, "pytestmark = []", "pytestmark = [1]", False),
        # floor 1, and what a technique imports
        ("measure", GATE, "value = 1", "value = 2", True),
        ("measure", GATE, "nn.functional as F", "nn.quantized as F", True),
        ("measure", UNUSED, "x + 5", "x + 6", True),
        ("measure", UNUSED, "width = 4", "width = 5", False),
        # floor 2: by from-import, `import … as`, import in a function; effects of a module
        ("measure", TRIAL, "WEIGHT_DECAY = 0.01", "WEIGHT_DECAY = 0.5", True),
        ("measure", TRIAL, '"late"', '"later"', True),
        ("measure", TRIAL, "threads(1)", "threads(2)", True),
        ("measure", TRIAL, "getattr(importlib", "vars(importlib", False),
        ("measure", "src/cnn_lab/data.py", "1797", "1798", True),
        ("measure", SPEED, "PAIRS = 3, 7", "PAIRS = 1, 1", False),
        # floor 3, and the process that it starts
        ("measure_speed", SPEED, "PAIRS = 3, 7", "PAIRS = 1, 1", True),
        ("measure_speed", SPEED, "LEAST = 0.15", "LEAST = 0.1", True),
        ("measure_speed", SPEED, "self.make = make", "self.make = 1", True),
        ("measure_speed", SPEED, '"compared"', '"changed"', False),
        # what a factory made is followed from where it is bound
        ("test_fast", PROOF, "SHARED: int = 3", "SHARED: int = 4", True),
        ("test_fast", "src/cnn_lab/data.py", "1797", "1798", True),
    ],
)
def test_code_makes_a_result_stale_and_words_do_not(
    repository: Path, function: str, file: str, old: str, new: str, stale: bool
) -> None:
    before = fingerprint(f"{PROOF}::{function}", {}, repository)
    edit(repository, file, old, new)
    assert (fingerprint(f"{PROOF}::{function}", {}, repository) != before) is stale


@pytest.mark.parametrize(
    ("function", "arguments", "file", "old", "new", "stale"),
    [
        ("measure_named", {"make": "Unused"}, UNUSED, "width = 4", "width = 5", True),
        ("measure_named", {"make": "Unused"}, GATE, "value = 1", "value = 2", False),
        ("measure_named", {"make": "Gate(Unused(2))"}, UNUSED, "= 4", "= 5", True),
        ("measure_named", ["cnn_lab.data:digits"], "src/cnn_lab/data.py", "7", "8", True),
        ("measure_named", ["cnn_lab.data.digits"], "src/cnn_lab/data.py", "7", "8", True),
        ("measure_command", ["cnn-lab train"], CLI, '"trained"', '"changed"', True),
        ("measure_command", ["cnn-lab train"], CLI, '"exported"', '"changed"', False),
        ("measure_command", ["cnn-lab export"], CLI, '"exported"', '"changed"', True),
    ],
)  # fmt: skip
def test_what_arguments_name_is_followed(
    repository: Path,
    function: str,
    arguments: object,
    file: str,
    old: str,
    new: str,
    stale: bool,
) -> None:
    before = fingerprint(f"{PROOF}::{function}", arguments, repository)
    edit(repository, file, old, new)
    assert (
        fingerprint(f"{PROOF}::{function}", arguments, repository) != before
    ) is stale


def test_another_thing_imported_under_the_same_name_is_seen(repository: Path) -> None:
    before = fingerprint(f"{PROOF}::measure", {}, repository)
    edit(repository, "src/cnn_techniques/attention/__init__.py", ".gate import Gate as", ".unused import Unused as")  # fmt: skip
    assert fingerprint(f"{PROOF}::measure", {}, repository) != before


def test_arguments_make_a_result_stale() -> None:
    assert fingerprint("src/cnn_lab/record.py::paired", {"n": 5}) != fingerprint(
        "src/cnn_lab/record.py::paired", {"n": 6}
    )


def test_what_is_not_there_is_told(repository: Path) -> None:
    with pytest.raises(LookupError, match=r"test_gate\.py defines no gone"):
        fingerprint(f"{PROOF}::gone", {}, repository)
    with pytest.raises(OSError, match="lost"):
        fingerprint("tests/lost.py::measure", {}, repository)


def test_how_results_are_named_is_no_part_of_them() -> None:
    files = {u.file.path.name for u in reached("src/cnn_lab/trial.py::trials", {})}
    assert {"trial.py", "record.py"} <= files
    assert "fingerprint.py" not in files


@pytest.mark.parametrize(
    ("slug", "name", "modules"),
    [  # what the cache of finished runs missed
        ("compression/knowledge-distillation", "digits", ["knowledge_distillation"]),
        ("detection/feature-pyramid-network", "scenes", ["feature_pyramid_network"]),
        ("modern/ghostnet", "learns", ["ghostnet", "squeeze_and_excitation"]),
        ("modern/wide-resnet", "learns", ["wide_resnet", "resnet"]),
        ("modern/ghostnet", "speed", ["ghostnet", "speed"]),
    ],
)
def test_records_reach_their_own_module_and_what_it_builds_on(
    slug: str, name: str, modules: list[str]
) -> None:
    record = json.loads((ROOT / f"docs/evidence/{slug}.json").read_text("utf-8"))
    entry = record["measured"][name]
    units = reached(entry["made_by"], entry["arguments"])
    assert set(modules) <= {unit.file.path.stem for unit in units}


# --- functions at hand --------------------------------------------------------------


def scaled(factor: object) -> Callable[..., object]:
    def run(seed: int) -> object:
        return factor, seed

    return run


def test_a_function_is_named_by_the_definition_it_is_written_in() -> None:
    here = "tests/lab/test_fingerprint.py"
    assert made_by(scaled) == made_by(scaled(1)) == f"{here}::scaled"
    assert made_by(paths[0]) == f"{here}::paths"
    assert made_by(fingerprint) == "src/cnn_lab/fingerprint.py::fingerprint"


paths = [lambda: "a lambda in a list"]


def test_what_a_closure_or_a_partial_holds_counts() -> None:
    held = [1, 2, "1", [1], scaled, test_arguments_make_a_result_stale, fingerprint]
    prints = [fingerprint_of(scaled(value), {}) for value in held]
    prints += [fingerprint_of(functools.partial(scaled, factor=n), {}) for n in (1, 2)]
    assert len({*prints, fingerprint_of(scaled, {})}) == len(prints) + 1
    assert prints == [
        *(fingerprint_of(scaled(value), {}) for value in held),
        *(fingerprint_of(functools.partial(scaled, factor=n), {}) for n in (1, 2)),
    ]


@dataclasses.dataclass
class Case:
    make: object

    def run(self, seed: int) -> object:
        return self.make


def with_default(n: int) -> Callable[..., object]:
    return lambda seed, n=n: n


def test_what_a_method_or_a_default_holds_counts() -> None:
    variants = [Variant(make, "A", "timm.a") for make in (fingerprint, scaled, ResNet)]
    assert len({fingerprint_of(scaled(v), {}) for v in variants}) == len(variants)
    assert fingerprint_of(with_default(1), {}) != fingerprint_of(with_default(2), {})
    with pytest.raises(ValueError, match=r"a run holds <class .*Case"):
        fingerprint_of(Case(1).run, {})  # a class of a proof: name it in the code


def test_what_a_fingerprint_cannot_hold_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"a run holds <object.*pass it as an argument"
    ):
        fingerprint_of(scaled(object()), {})
    space: dict = {}
    exec("def run(seed):\n    return seed", space)
    with pytest.raises(ValueError, match=r"cannot follow the code of <function run"):
        fingerprint_of(space["run"], {})
    with pytest.raises(ValueError, match=r"cannot follow the code of <built-in"):
        fingerprint_of(max, {})
