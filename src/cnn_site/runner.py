"""pytest plugin: runs every fence of every page exactly as shown, and gives proof files their `evidence`.

Python fences are run, and `console` fences of class `run`; a fence of class `continuation` goes on where the one
before it ended, in the same folder. One of class `file` is written to the file of its title, for a command to start.

What a technique's page shows has torch, torchvision and the packages of its `needs`: no other can be imported there.

The fences are found by the site's own preprocessors (fences.py), so tabs, admonitions and includes are seen as MkDocs
sees them; each statement is compiled under the file it was written in, so that an error names that file and line.
"""

import __future__

import ast
import builtins
import contextlib
import importlib.util
import inspect
import io
import math
import os
import re
import shlex
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_markdown_docs._runners import DefaultRunner, register_runner
from pytest_markdown_docs.plugin import MarkdownInlinePythonItem, MarkdownTextFile

from . import BESIDE, CATEGORIES, ROOT, pages, snake
from .evidence import Evidence, drop_orphans, may_name
from .fences import CodeBlock, imported, page_blocks, parser, runnable
from .processors import other_rounding

COPIED = frozenset({"torch", "torchvision"})  # what a copied block has
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
# Of what a command's training prints: another processor adds up in another order.
TRAINED = 0.05
RAN = pytest.StashKey[dict[Path, dict[int, float]]]()
# Of each proof file: test -> the texts in its parameters, deselected tests too.
TESTS = pytest.StashKey[dict[Path, dict[str, set[str]]]]()


class FenceError(Exception):
    """What a fence raised; the stock plugin would run a fence again that raises TypeError."""


# --- options ----------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cnn-techniques")
    group.addoption(
        "--update-evidence",
        action="store_true",
        help="write records and shown outputs that are stale",
    )
    group.addoption(
        "--device",
        default="cpu",
        help="cuda: modules and page blocks on that device, beside the CPU",
    )
    group.addoption(
        "--other-rounding",
        action="store_true",
        help="fences as on a processor that rounds otherwise (see processors.py)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[RAN], config.stash[TESTS] = {}, {}
    if config.getoption("--update-evidence") and (
        config.getoption("numprocesses", None) or hasattr(config, "workerinput")
    ):
        raise pytest.UsageError(
            "--update-evidence with -n: two processes would write one record; leave out -n"
        )
    device = config.getoption("--device")
    if device != "cpu":
        import torch

        if not torch.cuda.is_available():
            pytest.exit(
                f"--device {device}: torch {torch.__version__} sees no GPU here; nothing was run",
                returncode=2,
            )
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            # What differs on another device, and nothing that needs more than torch and pure Python.
            config.args = [str(ROOT / "tests/site/test_devices.py"), str(ROOT / "docs")]


def page_slug(path: Path) -> str | None:
    """`attention/squeeze-and-excitation` for the page of a technique."""
    try:
        parts = path.resolve().relative_to(ROOT / "docs").with_suffix("").parts
    except ValueError:
        return None
    return (
        "/".join(parts)
        if len(parts) == 2 and parts[0] in CATEGORIES and parts[1] != "index"
        else None
    )


# --- proof files ------------------------------------------------------------------------------------------------------


def pytest_itemcollected(item: pytest.Item) -> None:
    """Notes which tests may write records; prepares fences for pytest-xdist."""
    if isinstance(item, MarkdownInlinePythonItem):
        # What a report carries is plain text; a page stays in one process, for its continuations.
        item.user_properties = [(key, str(v)) for key, v in item.user_properties]
        item.add_marker(pytest.mark.xdist_group(str(item.path)))
    if "evidence" in getattr(item, "fixturenames", ()):
        test = item.nodeid.split("::")[1].split("[")[0]
        tests = item.config.stash[TESTS].setdefault(item.path, {})
        call = getattr(item, "callspec", None)
        values = [call.id, *call.params.values()] if call else []
        tests.setdefault(test, set()).update(v for v in values if isinstance(v, str))


def record_of(path: Path) -> str:
    """The technique, part of the lab or guide that a proof file is of."""
    path = path.relative_to(ROOT)
    if path.parts[0] != "tests" or path.parts[1] not in (*CATEGORIES, *BESIDE):
        raise ValueError(
            f"{path}: only tests/<category>/test_<slug>.py, tests/lab and tests/guides have records"
        )
    return f"{path.parts[1]}/{path.stem.removeprefix('test_').replace('_', '-')}"


@pytest.fixture(scope="module")
def _no_orphans(request: pytest.FixtureRequest) -> Iterator[None]:
    """After the last test of a file: what none of its tests can name is refused.

    Read from the code of all of them, since another process may have run the others.
    """
    yield
    config, path = request.config, request.path
    some = config.option.keyword or config.getoption("lf", False)
    if some or any("::" in argument for argument in config.args):
        return  # not all tests of the file are known
    names = {
        name
        for test, texts in config.stash[TESTS][path].items()
        for name in may_name(f"{path.relative_to(ROOT)}::{test}", texts)
    }
    drop_orphans(record_of(path), names, config.getoption("--update-evidence"))


@pytest.fixture
def evidence(request: pytest.FixtureRequest, _no_orphans: None) -> Evidence:
    """The record of the technique, part of the lab or guide whose proof file asks for it."""
    slug, update = (
        record_of(request.path),
        request.config.getoption("--update-evidence"),
    )
    test = "::".join(request.node.nodeid.split("[")[0].split("::")[:2])
    return Evidence(slug, update, test=test)


# --- drafts -----------------------------------------------------------------------------------------------------------


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The rooms of a draft are run when they are named, so that an unfinished page breaks nothing else."""
    slug = page_slug(collection_path) or room_slug(collection_path)
    if not slug or not pages.is_draft(ROOT / "docs" / f"{slug}.md"):
        return None
    named = [Path(str(a).split("::")[0]).resolve() for a in config.args]
    return None if collection_path.resolve() in named else True


def room_slug(path: Path) -> str | None:
    """`attention/cbam` for the source or the proof of a technique."""
    if not path.is_relative_to(ROOT) or path.suffix != ".py":
        return None
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[:2] == ("src", "cnn_techniques") or parts[0] == "tests":
        slug = "/".join(parts[-2:]).replace("/test_", "/").replace("_", "-")
        return slug if slug.split("/")[0] in CATEGORIES else None
    return None


# --- pages ------------------------------------------------------------------------------------------------------------


class _Source(str):
    """The text of a fence for the stock plugin, which pads it; the block itself comes along."""

    chain: list[CodeBlock]

    def __new__(cls, text: str, chain: list[CodeBlock]) -> "_Source":
        self = super().__new__(cls, text)
        self.chain = chain
        return self

    def __radd__(self, left: str) -> "_Source":
        return _Source(left + str(self), self.chain)


class _Parser:
    """Stands in for markdown-it: pytest-markdown-docs asks for parse() and four attributes of its tokens."""

    def parse(self, text: str) -> list[SimpleNamespace]:
        tokens: list[SimpleNamespace] = []
        chain: list[CodeBlock] = []
        for block in runnable(parser().blocks(text)):
            chain = [*chain, block] if "continuation" in block.classes else [block]
            source = _Source(block.code, chain)
            tokens.append(
                SimpleNamespace(
                    type="fence",
                    info="py",
                    content=source,
                    map=[block.line - 1, block.line],
                )
            )
        return tokens


@pytest.hookimpl(tryfirst=True)  # before the stock parser, whoever loads this plugin
def pytest_markdown_docs_markdown_it() -> _Parser:
    return _Parser()


def pytest_collect_file(
    file_path: Path, parent: pytest.Collector
) -> pytest.Collector | None:
    return (
        MarkdownTextFile.from_parent(parent, path=file_path)
        if file_path.suffix == ".md"
        else None
    )


@pytest.fixture(autouse=True)
def _clean_start(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Each fence starts in an empty folder with torch's defaults."""
    if not isinstance(request.node, MarkdownInlinePythonItem):
        yield
        return
    import torch

    chain: list[CodeBlock] = getattr(request.node.code, "chain", [])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")  # as wide as tables are printed to a file
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if any("get_state_dict(" in block.code for block in chain):
        monkeypatch.setattr(
            "torchvision.models._api.load_state_dict_from_url", published_weights
        )
    device = request.config.getoption("--device")
    if device != "cpu" and any(block.is_command for block in chain):
        pytest.skip("commands are run on the CPU")
    if device != "cpu" and (missing := not_installed(request.node.code)):
        pytest.skip(f"{missing} is not installed beside this {device}")
    with contextlib.ExitStack() as surroundings:
        if device != "cpu":
            surroundings.enter_context(torch.device(device))
        if request.config.getoption("--other-rounding"):
            monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
            surroundings.enter_context(other_rounding())
        yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float32)


def not_installed(code: str) -> str:
    """The first package that a block imports and that is not there; a GPU machine has little beside torch."""
    names = sorted(imported(code))
    return next((n for n in names if importlib.util.find_spec(n) is None), "")


def packages(page: Path, block: CodeBlock) -> frozenset[str] | None:
    """What a block of a technique's page can import; None: anything, on other pages."""
    slug = page_slug(page)
    if not slug:
        return None
    own = frozenset(pages.module(p) for p in pages.needs(page))
    copied = block.title == f"{snake(slug).split('/')[1]}.py"
    if copied:
        return COPIED | own
    # Below it a page may show timm's networks, and what packages hold that its text names.
    text = page.read_text(encoding="utf-8")
    named = {pages.module(p) for p in pages.packages() if f"`{p}`" in text}
    return COPIED | own | named | {"timm"}


def importer(allowed: Collection[str]) -> Any:
    """`__import__` for a block: what torch imports for itself is not its business."""

    def guarded(
        name: str,
        globals: Any = None,
        locals: Any = None,
        fromlist: Any = (),
        level: int = 0,
    ) -> Any:
        top = name.partition(".")[0]
        in_c = isinstance(fromlist, list)  # PyImport_Import, for a module that C needs
        if not in_c and top not in allowed and top not in sys.stdlib_module_names:
            raise ModuleNotFoundError(
                f"{top!r} cannot be imported here: the page says that its code needs "
                f"{', '.join(sorted(allowed))}; another package stands in needs, in the front matter",
                name=top,
            )
        return __import__(name, globals, locals, fromlist, level)

    return guarded


def published_weights(url: str, *args: object, **options: object) -> dict[str, Any]:
    """Instead of a download: the names and shapes of torchvision's file at `url`, with random numbers."""
    from torchvision.models import (
        get_model,
        get_model_builder,
        get_model_weights,
        list_models,
    )

    for name in list_models():
        if any(weights.url == url for weights in get_model_weights(name)):
            known = inspect.signature(get_model_builder(name)).parameters
            more = {"aux_loss": True} if "aux_loss" in known else {}  # as the files
            with warnings.catch_warnings():  # GoogLeNet and Inception, of their start
                warnings.simplefilter("ignore", FutureWarning)
                network = get_model(name, weights=None, **more)
            state: dict[str, Any] = network.state_dict()
            return state
    raise ValueError(f"torchvision has no weights at {url}")


@register_runner(default=True)
class PageRunner(DefaultRunner):
    """Runs a block under the file it was written in and compares what it prints."""

    config: pytest.Config
    last: tuple[Any, list[CodeBlock], dict[str, Any]] = (None, [], {})
    folder = Path()  # where the last one ran
    torch_state: tuple[Any, Any] = (None, None)  # generator and dtype at its end

    def runtest(
        self, test: Any, args: dict[str, Any], *, asyncio_runner: object = None
    ) -> None:
        import torch

        chain: list[CodeBlock] = test.source.chain
        path, before, space = self.last
        if (
            before and path == test.source_path and before == chain[:-1]
        ):  # go on where the fences before it ended: names, folder, torch's state
            space.update(args)
            os.chdir(self.folder)
            torch.set_rng_state(self.torch_state[0])
            torch.set_default_dtype(self.torch_state[1])
        else:
            before, space = [], args
        self.last, self.folder = (None, [], {}), Path.cwd()
        for block in chain[len(before) :]:
            page = Path(test.source_path)
            start = time.perf_counter()
            if block.is_command:
                printed = run_commands(block)
            elif block.is_file:
                printed = write_file(block, packages(page, block))
            else:
                printed = run_block(block, page, space, packages(page, block))
            seconds = time.perf_counter() - start
            self.compare(block, page, printed)
        self.config.stash[RAN].setdefault(Path(test.source_path), {})[block.line] = (
            seconds
        )
        self.last = (test.source_path, chain, space)
        self.torch_state = torch.get_rng_state(), torch.get_default_dtype()

    def compare(self, block: CodeBlock, page: Path, printed: str) -> None:
        if (
            block.output is None or self.config.getoption("--device") != "cpu"
        ):  # another device draws other numbers
            return
        fault = (
            unlike(timeless(printed), timeless(block.output), TRAINED)
            if block.is_command
            else unlike(printed, block.output)
        )
        if fault and self.config.getoption("--update-evidence"):
            rewrite_output(page, block, printed)
        elif fault:
            raise FenceError(f"{page.name}, line {block.line}: {fault}") from None

    def repr_failure(
        self, test: Any, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None
    ) -> str:
        error = excinfo.value.__cause__ or excinfo.value
        frames = traceback.extract_tb(error.__traceback__)
        last = max(
            (i for i, f in enumerate(frames) if f.filename == __file__), default=-1
        )
        shown = "".join(traceback.format_list(frames[last + 1 :]))
        raised = "".join(traceback.format_exception_only(error)).strip()
        return f"In {relative(test.source_path)}, the fence at line {test.start_line}:\n{shown}{raised}"


def pytest_sessionstart(session: pytest.Session) -> None:
    PageRunner.config = session.config


def relative(path: Path | str) -> str:
    return os.path.relpath(path, ROOT)


def write_file(block: CodeBlock, allowed: Collection[str] | None = None) -> str:
    """Writes a block to the file that its title names, in the folder where the page's commands run."""
    if not block.title or Path(block.title).name != block.title:
        raise FenceError(f"a .file block has a file name as title, got {block.title!r}")
    if allowed is not None and (more := sorted(imported(block.code) - set(allowed))):
        raise FenceError(f"{block.title} imports {', '.join(more)}; see needs")
    Path(block.title).write_text(block.code, encoding="utf-8")
    return ""


def run_block(
    block: CodeBlock,
    page: Path,
    space: dict[str, Any],
    allowed: Collection[str] | None = None,
) -> str:
    """Executes a block as displayed and returns what it printed; it can import the packages allowed (None: any)."""
    out = io.StringIO()
    if allowed is not None:
        space["__builtins__"] = {
            **vars(builtins),
            "__import__": importer(allowed),
        }
    with contextlib.redirect_stdout(out):
        for code in compiled(block, page):
            try:
                exec(code, space)
            except Exception as error:
                raise FenceError(str(error)) from error
    return out.getvalue()


def run_commands(block: CodeBlock) -> str:
    """Runs the lines that begin with `$ ` in a shell, and returns what they printed; errors too, where they are meant.

    `cnn-lab` runs in this process, as it would in its own: to start it costs more than most of what pages show.
    """
    printed = ""
    text = block.code.replace("\\\n", " ")  # a command may go on on the next line
    for line in text.strip().split("\n"):
        if not line.startswith("$ "):
            raise FenceError(f"a command begins with `$ `, got {line!r}")
        words = shlex.split(line[2:], comments=True)
        code, out, errors = (
            _lab(words[1:]) if words[0] == "cnn-lab" else _shell(line[2:])
        )
        if (code != 0) != ("fails" in block.classes):
            raise FenceError(f"{line}: exit code {code}\n{out}{errors}")
        printed += out + (errors if code else "")
    return printed


def _lab(arguments: list[str]) -> tuple[int, str, str]:
    from cnn_lab.cli import main

    out, errors, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["cnn-lab", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
        return code, out.getvalue(), errors.getvalue()
    finally:
        sys.argv = before
    return 0, out.getvalue(), errors.getvalue()


def _shell(line: str) -> tuple[int, str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        ["bash", "-euc", line],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    return run.returncode, run.stdout, run.stderr


def timeless(text: str) -> str:
    """Without speeds, durations and differences by rounding, which no two machines share."""
    return re.sub(r"\d[\d,.]*( images/s| s\b|×)|\d(\.\d+)?e-\d+", r"#\1", text)


def compiled(block: CodeBlock, page: Path) -> Iterator[Any]:
    """The statements, each under the file and line it was written in."""

    def place(line: int) -> tuple[str, int]:
        name, n = block.origins[min(line, len(block.origins)) - 1]
        return (name, n) if name else (str(page), n)

    try:
        body = ast.parse(block.code).body
    except SyntaxError as error:
        error.filename, error.lineno = place(error.lineno or 1)
        raise FenceError("syntax error") from error
    flags = 0
    for node in body:
        if isinstance(node, ast.ImportFrom) and node.module == "__future__":
            flags |= sum(getattr(__future__, a.name).compiler_flag for a in node.names)
        name = place(node.lineno)[0]
        for sub in ast.walk(node):
            for at in {"lineno", "end_lineno"} & set(sub._attributes):
                setattr(sub, at, place(getattr(sub, at))[1])
        yield compile(
            ast.Module([node], []), name, "exec", flags=flags, dont_inherit=True
        )


def unlike(printed: str, shown: str, tolerance: float = 1e-4) -> str:
    """What differs: text exactly, numbers by more than that part of their size; empty where nothing does."""
    got, want = printed.strip(), shown.strip()
    same_text = NUMBER.split(got) == NUMBER.split(want)
    pairs = zip(NUMBER.findall(got), NUMBER.findall(want), strict=False)
    if same_text and all(
        a == b or math.isclose(float(a), float(b), rel_tol=tolerance) for a, b in pairs
    ):
        return ""
    return f"printed\n  {got!r}\nbut the page shows\n  {want!r}"


def rewrite_output(page: Path, block: CodeBlock, printed: str) -> None:
    """Puts what a block printed into the `.output` fence below it."""
    lines = page.read_text(encoding="utf-8").split("\n")
    # Outputs written before this one have moved the block: find it again by its code.
    start = next(b.line for b in page_blocks(page) if b.code == block.code)
    head = next(
        n for n in range(start, len(lines)) if re.match(r"\s*`{3,}.*\.output", lines[n])
    )
    indent = re.match(r"\s*", lines[head])[0]  # type: ignore[index]
    end = next(n for n in range(head + 1, len(lines)) if lines[n].strip() == "```")
    shown = printed.rstrip("\n").split("\n")
    lines[head + 1 : end] = [indent + line if line else "" for line in shown]
    page.write_text("\n".join(lines), encoding="utf-8")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Stamps the pages all of whose blocks ran in this session."""
    device = session.config.getoption("--device")
    if not session.config.getoption("--update-evidence"):
        return
    for page, ran in session.config.stash[RAN].items():
        slug, blocks = page_slug(page), list(runnable(page_blocks(page)))
        if slug and len(blocks) == len(ran):
            from cnn_lab.record import environment

            now = environment(device)
            wanted = ("date", "torch", "python", "processor", "device")
            made_with: dict[str, Any] = {k: now[k] for k in wanted}
            rows = [{"title": b.title, "hash": b.hash} for b in blocks]
            Evidence(slug, update=True).ran(device, rows, list(ran.values()), made_with)
