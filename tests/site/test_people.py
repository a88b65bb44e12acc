"""What people and their machines go by: set-up commands, versions, workflows, citation."""

import importlib.util
import re
import tomllib
from types import ModuleType

import pytest
import yaml

from cnn_site import ROOT, check

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
README = (ROOT / "README.md").read_text(encoding="utf-8")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def script(name: str) -> ModuleType:
    """A file of .ci as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f".ci/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").split("\n")
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


@pytest.mark.parametrize(
    ("name", "extra", "end"),
    [("site", "docs", "-m mkdocs serve"), ("test", "test", "-m pytest")],
)
def test_the_readme_has_the_command_that_the_gate_takes_from_it(
    name: str, extra: str, end: str
) -> None:
    command = re.search(rf"<!-- {name}:[^\n]*-->\n```console\n(.*?)```", README, re.S)[
        1
    ]
    assert command.startswith("python3 -m venv .venv")
    assert f'-c constraints.txt -e ".[{extra}]" &&' in command
    assert command.rstrip().endswith(end)
    assert extra in PROJECT["optional-dependencies"]


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_constraints_are_exact_and_name_no_host_and_no_gpu_library(name: str) -> None:
    for package, version in pins(name).items():
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", package), package
        assert re.fullmatch(r"\d[0-9a-z.]*", version), (package, version)
        assert not package.startswith(("nvidia", "cuda", "triton")), package


def test_every_package_the_project_asks_for_is_constrained() -> None:
    wanted = {
        re.match(r"[A-Za-z0-9._-]+", need)[0].lower().replace("_", "-")
        for needs in PROJECT["optional-dependencies"].values()
        for need in needs
    }
    assert wanted - set(pins("constraints.txt")) == {PROJECT["name"]}


def test_the_oldest_versions_differ_in_torch_and_torchvision_alone() -> None:
    newest, oldest = pins("constraints.txt"), pins("constraints-oldest.txt")
    differ = {name for name in newest | oldest if newest.get(name) != oldest.get(name)}
    assert differ == {"torch", "torchvision"}
    assert (
        f"torch>={oldest['torch'].removesuffix('.0')}"
        in (PROJECT["optional-dependencies"]["torch"])
    )


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"][0] == {"family-names": "Khateeb", "given-names": "Deyaa"}


def test_contributing_numbers_the_steps_that_check_goes_through() -> None:
    text = (ROOT / ".github/CONTRIBUTING.md").read_text(encoding="utf-8")
    steps = text[text.index("## Add a technique") : text.index("## Change the lab")]
    assert re.findall(r"(?m)^\d+\. \*\*(\w+)", steps) == list(check.STEPS)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_calls_what_a_developer_calls_and_pins_what_it_uses(path) -> None:
    text = path.read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"].values()
    steps = [step for job in jobs for step in job.get("steps", [])]
    for step in steps:
        if "run" in step:
            assert re.fullmatch(r"\.ci/[a-z]+( [^\n;&|]+)?", step["run"]), step["run"]
        else:
            assert re.search(r"@[0-9a-f]{40}$", step["uses"]), step["uses"]
    assert "\npermissions: {}\n" in text, "rights are given job by job"
    assert all("permissions" in job for job in jobs)


def test_a_new_run_may_move_within_its_spread_and_no_further() -> None:
    outside = script("again").outside
    old = {"arms": {"a": {"accuracy": {"mean": 0.90, "low": 0.88, "high": 0.92}}}}
    near = {"arms": {"a": {"accuracy": {"mean": 0.93, "low": 0.9, "high": 0.96}}}}
    far = {"arms": {"a": {"accuracy": {"mean": 0.80, "low": 0.7, "high": 0.9}}}}
    assert outside(old, near) == []
    assert outside(old, {"arms": {}}) == ["arms.a.accuracy: not made this time"]
    assert outside(old, far)[0].startswith("arms.a.accuracy: moved by 0.1")
    with pytest.raises(ValueError, match="nothing to hold"):
        outside({"arms": {}}, near)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("(see https://a.org/b_(c)).", "https://a.org/b_(c)"),
        ("[x](https://a.org/b), and", "https://a.org/b"),
        ("<https://a.org/?q=1&r=2>", "https://a.org/?q=1&r=2"),
        ("at https://a.org/b.", "https://a.org/b"),
    ],
)
def test_an_address_is_read_without_the_sentence_around_it(
    text: str, address: str
) -> None:
    links = script("links")
    assert [links.trimmed(found) for found in links.ADDRESS.findall(text)] == [address]
