"""The page runner sees every fence a reader sees, runs it as shown and compares what it prints."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lxml import html

from cnn_site import ROOT
from cnn_site.directives.base import terminal
from cnn_site.fences import CodeBlock, PageParser, unlabelled
from cnn_site.processors import Processor, run
from cnn_site.runner import (
    FenceError,
    not_installed,
    packages,
    published_weights,
    run_block,
    run_commands,
    timeless,
    unlike,
    write_file,
)

PARSER = PageParser()

PAGE = """---
title: Page
---

```py
print(1)
```

```{.text .output}
1
```

=== "Tab"

    ```{.py title="x.py" hl_lines="1"}
    print(2)
    ```

??? answer "Answer"

    ```py
    print(3)
    ```

    ```{.text .output}
    3
    ```

- item

    ```py
    print(4)
    ```

```{.py .excerpt}
print(2)
```

```{.py .notest}
print(5)
```

```bash
ls
```
"""


def test_fences_in_tabs_admonitions_and_lists_are_found() -> None:
    blocks = PARSER.blocks(PAGE)
    assert [b.code.strip() for b in blocks if b.runs] == [
        "print(1)",
        "print(2)",
        "print(3)",
        "print(4)",
    ]
    assert [b.output and b.output.strip() for b in blocks if b.runs] == [
        "1",
        None,
        "3",
        None,
    ]
    assert [b.title for b in blocks if b.title] == ["x.py"]
    assert [b.language for b in blocks][-1] == "bash"


def test_a_block_knows_the_line_of_its_head() -> None:
    lines = PAGE.split("\n")
    for block in PARSER.blocks(PAGE):
        assert "```" in lines[block.line - 1]


def test_an_excerpt_must_be_contiguous_and_unchanged() -> None:
    block = PARSER.blocks("```py\ndef f():\n    a = 1\n    b = 2\n    return a\n```\n")[
        0
    ]
    assert block.contains("a = 1\nb = 2\n")
    assert block.contains("    a = 1\n    b = 2\n")
    assert not block.contains("a = 1\nreturn a\n")
    assert not block.contains("a = 1  # changed\n")


def test_a_fence_without_a_language_is_named() -> None:
    assert unlabelled("```py\nx\n```\n\n```\ny\n```\n") == [5]


@pytest.mark.parametrize(
    ("printed", "shown", "same"),
    [
        ("loss 0.12345", "loss 0.12345", True),
        ("loss 0.123451", "loss 0.123456", True),
        ("loss 0.1234", "loss 0.1236", False),
        ("loss 0.1234", "gain 0.1234", False),
        ("12 of 13", "12 of 14", False),
        ("(2, 64)", "(2, 64)", True),
        ("1 2", "1 2 3", False),
        ("0.0", "0.0001", False),
        ("-0.5", "0.5", False),
    ],
)
def test_numbers_may_differ_by_one_in_ten_thousand_and_text_not_at_all(
    printed: str, shown: str, same: bool
) -> None:
    assert (unlike(printed, shown) == "") is same


def test_an_error_names_the_line_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    block = PARSER.blocks("text\n\n```py\nx = 1\nx / 0\n```\n")[0]
    with pytest.raises(FenceError) as caught:
        run_block(block, page, {})
    last = caught.value.__cause__.__traceback__
    while last.tb_next:
        last = last.tb_next
    assert (last.tb_frame.f_code.co_filename, last.tb_lineno) == (str(page), 5)


def test_a_type_error_does_not_run_a_block_twice(tmp_path: Path) -> None:
    seen: list[int] = []
    block = PARSER.blocks("```py\nseen.append(1)\nlen(3)\n```\n")[0]
    with pytest.raises(FenceError):
        run_block(block, tmp_path / "page.md", {"seen": seen})
    assert seen == [1]


def test_a_block_names_the_package_that_it_lacks() -> None:
    assert not_installed("import torch\nfrom torch import nn") == ""
    assert not_installed("import torch\nfrom no_such.part import x") == "no_such"


def test_a_download_is_stood_in_for_by_the_names_and_shapes_of_its_network() -> None:
    models = pytest.importorskip("torchvision.models")
    state = published_weights(models.ResNet18_Weights.IMAGENET1K_V1.url, progress=True)
    expected = models.resnet18().state_dict()
    assert [(k, v.shape) for k, v in state.items()] == [
        (k, v.shape) for k, v in expected.items()
    ]
    with pytest.raises(ValueError, match="no weights at"):
        published_weights("https://example.org/other.pth")


# --- commands --------------------------------------------------------------------


def commands(text: str, classes: str = "") -> CodeBlock:
    (block,) = PARSER.blocks(f"```{{.console .run{classes}}}\n{text}\n```\n")
    assert block.is_command and block.runs
    return block


def test_the_commands_of_a_block_run_in_order_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    block = commands("$ echo one > kept\n$ cat kept && echo \\\n    two")
    assert run_commands(block) == "one\ntwo\n"
    assert (tmp_path / "kept").exists()


def test_a_command_that_fails_must_be_meant_to() -> None:
    with pytest.raises(FenceError, match=r"exit code 3\nsaid"):
        run_commands(commands("$ echo said >&2; exit 3"))
    assert run_commands(commands("$ echo said >&2; exit 3", " .fails")) == "said\n"
    with pytest.raises(FenceError, match="exit code 0"):
        run_commands(commands("$ true", " .fails"))


def test_a_command_begins_with_a_dollar_sign() -> None:
    with pytest.raises(FenceError, match="begins with"):
        run_commands(commands("ls"))


def test_cnn_lab_runs_as_it_would_in_a_process_of_its_own() -> None:
    pytest.importorskip("typer")
    assert run_commands(commands("$ cnn-lab --version")).startswith("cnn-lab ")
    refused = run_commands(commands("$ cnn-lab train no_such_network", " .fails"))
    assert refused.startswith("cnn-lab: there is no network 'no_such_network'")


def test_speeds_durations_and_rounding_are_not_compared() -> None:
    told = "epoch 1: loss 0.5, 1,234 images/s, 3.5 s and 1.02× as long"
    assert timeless(told) == "epoch 1: loss 0.5, # images/s, # s and #× as long"
    assert timeless("differ by 3e-07") == "differ by #"
    assert timeless("12 steps and 3 seeds") == "12 steps and 3 seeds"


def test_a_console_fence_without_the_class_is_not_run() -> None:
    (block,) = PARSER.blocks("```{.console}\n$ rm -r everything\n```\n")
    assert not block.runs


def test_a_long_recorded_command_is_broken_before_options_and_stays_the_same() -> None:
    options = " ".join(f"--option-{n} 'a b'" for n in range(12))
    shown = html.fromstring(terminal(f"tool first {options}", "out <1>"))
    lines = shown.text_content().split("\\\n")
    assert len(lines) > 2 and all(len(line) < 80 for line in lines)
    assert all(line.lstrip("$ ").startswith(("tool", "--option")) for line in lines)
    command = " ".join(lines).removeprefix("$ ").removesuffix("out <1>")
    assert shlex.split(command) == shlex.split(f"tool first {options}")


# --- what a technique's page has -------------------------------------------------

ALLOWED = frozenset({"torch", "torchvision"})


def python(code: str, classes: str = "", title: str = "") -> CodeBlock:
    head = f'{{.py{classes} title="{title}"}}' if title else f"{{.py{classes}}}"
    (block,) = PARSER.blocks(f"```{head}\n{code}\n```\n")
    return block


@pytest.mark.parametrize("name", ["cnn_techniques", "cnn_lab", "sklearn", "numpy"])
def test_a_copied_block_cannot_import_what_its_page_does_not_name(name: str) -> None:
    block = python(f"def late():\n    import {name}\n\nlate()")
    with pytest.raises(FenceError, match=f"'{name}' cannot be imported here"):
        run_block(block, Path("page.md"), {}, ALLOWED)
    run_block(block, Path("page.md"), {}, ALLOWED | {name})


def test_torch_imports_for_itself_what_it_wants() -> None:
    code = "import math, torch\nprint(torch.ones(2).numpy().sum() + math.pi)"
    assert run_block(python(code), Path("page.md"), {}, ALLOWED).startswith("5.14")


def test_a_copied_block_has_the_packages_of_its_page_and_other_blocks_timm() -> None:
    page = ROOT / "docs/attention/squeeze-and-excitation.md"
    copied = python("x = 1", title="squeeze_and_excitation.py")
    assert packages(page, copied) == ALLOWED
    assert packages(page, python("x = 1")) == ALLOWED | {"timm"}
    assert packages(ROOT / "docs/lab/train.md", copied) is None


def test_a_file_is_written_where_the_commands_after_it_start_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    block = python("import sys\nprint(sys.argv[1:])", " .file", "program.py")
    assert block.is_file and block.runs
    assert write_file(block, ALLOWED) == ""
    assert run_commands(commands("$ python program.py one")) == "['one']\n"
    with pytest.raises(FenceError, match="imports cnn_lab"):
        write_file(python("import cnn_lab", " .file", "program.py"), ALLOWED)
    for title in ("", "../program.py"):
        with pytest.raises(FenceError, match="has a file name as title"):
            write_file(python("x = 1", " .file", title))


def test_a_technique_page_runs_files_and_commands_of_the_lab(tmp_path: Path) -> None:
    """The whole way through pytest, on a page taken for a technique's."""
    text = (
        '```{.py .file title="squeeze_and_excitation.py"}\nimport torch\n\nprint(torch.ones(3).sum())\n```\n\n'
        "```{.console .run .continuation}\n$ python squeeze_and_excitation.py\n```\n\n"
        "```{.text .output}\ntensor(3.)\n```\n\n"
        "```{.console .run}\n$ cnn-lab train no_such_network\n```\n"
    )
    (tmp_path / "page.md").write_text(text.replace(".run}", ".run .fails}"))
    (tmp_path / "conftest.py").write_text(
        "import cnn_site.runner as runner\n"
        'pytest_plugins = ["cnn_site.runner"]\n'
        'runner.page_slug = lambda path: "attention/squeeze-and-excitation"\n'
        "runner.pages.needs = lambda path: []\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "page.md"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_a_continuation_goes_on_with_random_numbers_and_dtype(tmp_path: Path) -> None:
    first = "import torch\ntorch.set_default_dtype(torch.float64)\nx = torch.rand(2)\n"
    second = "print(f'{torch.rand(1).item():.6f}', torch.ones(1).dtype)\n"
    torch.manual_seed(0)
    whole = CodeBlock("py", (), "", first + second, ((None, 1),) * 4, 1)
    shown = run_block(whole, tmp_path / "page.md", {})
    page = tmp_path / "page.md"
    page.write_text(
        f"# Page\n\n```py\n{first}```\n\n```{{.py .continuation}}\n{second}```\n\n"
        f"```{{.text .output}}\n{shown}```\n"
    )
    here = run(Processor("here", "this processor", {}), [str(page)])
    assert (here.fences, here.differ) == (2, 0), here.output
