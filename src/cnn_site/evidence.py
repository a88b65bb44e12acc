"""Records: what was computed, compared and measured for a technique, written by the code that verifies it.

One JSON file a technique under docs/evidence. Stale means that an integer, a shape, a name, a hash or the schema number
differs; a measured difference is held against its bound; dates, seconds and versions never make a record stale.
"""

import ast
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import ROOT, snake

if TYPE_CHECKING:
    from .equivalence import Comparison

SCHEMA = 1
PACKAGES = {
    name: {"sklearn": "scikit-learn"}.get(name, name)
    for name in (
        "torch",
        "torchvision",
        "timm",
        "torchmetrics",
        "sklearn",
        "pycocotools",
    )
}
FOLDER = ROOT / "docs" / "evidence"
Json = dict[str, Any]


class StaleRecord(AssertionError):
    """A record says something else than the code does now."""


def load(slug: str, folder: Path = FOLDER) -> Json:
    """The record of a technique, or an empty one; ValueError for a record of another schema version."""
    path = folder / f"{slug}.json"
    if not path.exists():
        return {"schema": SCHEMA, "technique": slug}
    record: Json = json.loads(path.read_text(encoding="utf-8"))
    if record.get("schema") != SCHEMA:
        raise ValueError(
            f"{path}: schema {record.get('schema')!r}, but this version reads {SCHEMA}; "
            f"make the record again: pytest --update-evidence {proof(slug)}"
        )
    return record


def save(record: Json, folder: Path = FOLDER) -> None:
    path = folder / f"{record['technique']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, indent=1, ensure_ascii=False, sort_keys=False)
    path.write_text(_one_line_lists(text) + "\n", encoding="utf-8")


def _one_line_lists(text: str) -> str:
    """Lists of plain values on one line: a diff shows what changed, not a column of commas."""
    plain = re.compile(r"\[\s*((?:[^\[\]{}\"]|\"(?:[^\"\\]|\\.)*\")*?)\s*\]")
    return plain.sub(lambda m: "[" + re.sub(r"\s*\n\s*", " ", m[1]) + "]", text)


def proof(slug: str) -> str:
    category, name = snake(slug).split("/")
    return f"tests/{category}/test_{name}.py"


def differences(old: Any, new: Any, at: str = "") -> Iterator[str]:
    """What makes `old` stale: a line for each place where the two disagree; floats may differ by 1e-6 of their size."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            where = f"{at}.{key}" if at else str(key)
            if key not in new:
                yield f"{where} is in the record only"
            elif key not in old:
                yield f"{where} is not in the record"
            else:
                yield from differences(old[key], new[key], where)
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{at}: the record has {len(old)} entries, now there are {len(new)}"
        for n, (a, b) in enumerate(zip(old, new, strict=False)):
            yield from differences(a, b, f"{at}[{n}]")
    elif isinstance(old, float) or isinstance(new, float):
        if (
            not _number(old)
            or not _number(new)
            or not math.isclose(old, new, rel_tol=1e-6, abs_tol=1e-12)
        ):
            yield f"{at}: the record says {old!r}, now it is {new!r}"
    elif old != new:
        yield f"{at}: the record says {old!r}, now it is {new!r}"


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Evidence:
    """What a proof file writes into its technique's record, or holds against it.

    Args:
        slug: the technique, as `attention/squeeze-and-excitation`.
        update: write what is stale instead of refusing it.
    """

    def __init__(self, slug: str, update: bool = False, folder: Path = FOLDER) -> None:
        self.slug, self.update, self.folder = slug, update, folder

    @cached_property
    def command(self) -> str:
        return f"pytest --update-evidence {proof(self.slug)}"

    def computed(self, table: str, rows: dict[str, Json]) -> None:
        """A table of numbers that follow from the code: row key -> name and quantities.

        Raises: StaleRecord where the record says something else.
        """
        self._hold("computed", table, _plain(rows))

    def equivalent(
        self, name: str, comparison: "Comparison", *, reference: str, settings: str = ""
    ) -> None:
        """A comparison that was within its bounds. The sizes of the differences never make the record stale."""
        facts = {
            "reference": reference,
            "settings": settings,
            **_plain(vars(comparison)),
        }
        sizes = ("output", "gradient", "buffers")
        keep = {k: v for k, v in facts.items() if k not in sizes}
        self._hold(
            "equivalence",
            name,
            facts,
            compared=lambda row: {k: row.get(k) for k in keep},
            stamp=reference,
        )

    def measured(self, name: str, *, arguments: Json, run: Callable[..., Json]) -> Json:
        """A costly result: runs `run(**arguments)` and writes it with date, versions, hardware and the hash of its code."""
        from cnn_lab.record import environment

        if not self.update:
            raise StaleRecord(
                f"measured results are made on purpose: {self.command} -m record"
            )
        made_by = f"{Path(run.__code__.co_filename).resolve().relative_to(ROOT)}::{run.__name__}"
        result = _plain(run(**arguments))
        record = load(self.slug, self.folder)
        record.setdefault("measured", {})[name] = {
            "made_by": made_by,
            "hash": measured_hash(made_by, _plain(arguments)),
            "arguments": _plain(arguments),
            "environment": environment(),
            "result": result,
        }
        save(record, self.folder)
        return result

    def ran(
        self, device: str, blocks: list[Json], seconds: list[float], environment: Json
    ) -> None:
        """The blocks of the page ran as shown: the verified stamp."""
        self._hold("blocks", "", blocks)
        run = {
            **environment,
            "blocks": [b["hash"] for b in blocks],
            "seconds": [round(s, 3) for s in seconds],
        }
        self._hold("runs", device, run, compared=lambda r: r.get("blocks"))

    def on_device(self, device: str, rows: dict[str, Json], environment: Json) -> None:
        """Each module against its own float64 result on the CPU."""
        self._hold(
            "devices",
            device,
            {**environment, "rows": rows},
            compared=lambda r: sorted(r.get("rows", {})),
        )

    def _hold(
        self,
        section: str,
        key: str,
        new: Any,
        compared: Callable[[Any], Any] = lambda value: value,
        stamp: str = "",
    ) -> None:
        record = load(self.slug, self.folder)
        old = record.get(section, {}).get(key) if key else record.get(section)
        stale = (
            ["there is none yet"]
            if old is None
            else list(differences(compared(old), compared(new)))
        )
        if not stale:
            return
        if not self.update:
            told = "\n  ".join(stale[:8])
            raise StaleRecord(
                f"docs/evidence/{self.slug}.json: {section} {key} is stale:\n  {told}\nif the code is right: {self.command}"
            )
        if stamp:
            from cnn_lab.record import environment

            now = environment()
            named = re.match(r"\w+", stamp)
            package = PACKAGES.get(named[0] if named else "", "torch")
            new = {
                **new,
                "version": f"{package} {version(package)}",
                "date": now["date"],
                "torch": now["torch"],
                "processor": now["processor"],
            }
        if key:
            record.setdefault(section, {})[key] = new
        else:
            record[section] = new
        save(record, self.folder)


def _plain(value: Any) -> Any:
    """Only what JSON holds: a tuple becomes a list, a scalar of another library a number."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(
        f"{value!r} ({type(value).__name__}) cannot stand in a record: expected numbers, text, lists, dicts"
    )


# --- the hash of a measured result -----------------------------------------------------------------------------------


def measured_hash(made_by: str, arguments: Json, root: Path = ROOT) -> str:
    """Of the function that measured, the floor-1 modules it imports, floor 2's version and the arguments.

    Syntax trees without docstrings, comments and guards (`if ...: raise`), so that neither a word nor a better error
    message makes a result of hours stale. Nothing is run.
    """
    path, function = made_by.split("::")
    tree = ast.parse((root / path).read_text(encoding="utf-8"))
    parts = [_bare(node) for node in _reached(tree, function, path)]
    parts += [
        _bare(ast.parse(f.read_text(encoding="utf-8")))
        for f in sorted(_modules(tree, function, path, root))
    ]
    parts += [_lab_version(root), json.dumps(arguments, sort_keys=True)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def stale_measurements(
    slug: str, folder: Path = FOLDER, root: Path = ROOT
) -> list[str]:
    """A line for each measured result whose code is no longer the code that made it."""
    stale = []
    for name, entry in load(slug, folder).get("measured", {}).items():
        try:
            now = measured_hash(entry["made_by"], entry["arguments"], root)
        except (OSError, LookupError) as error:
            now = f"not to be had ({error})"
        if now != entry["hash"]:
            stale.append(
                f"docs/evidence/{slug}.json: measured {name} was made by code with hash {entry['hash']}, now it is {now}; "
                f"make it again: pytest --update-evidence -m record {entry['made_by'].split('::')[0]}"
            )
    return stale


class _Guards(ast.NodeTransformer):
    """Takes out what only refuses bad input: a run that came to its end met none of it."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        self.generic_visit(node)
        refuses = isinstance(node.body[-1], ast.Raise)
        words = all(isinstance(n, ast.Assign) for n in node.body[:-1])
        return None if refuses and words and not node.orelse else node


def _bare(tree: ast.AST) -> str:
    for node in ast.walk(tree):
        if isinstance(
            node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        ) and ast.get_docstring(node):
            node.body = node.body[1:]
    return _form(_Guards().visit(tree))


def _form(value: Any) -> str:
    """A syntax tree as text that is the same in every version of Python (`ast.dump` is not)."""
    if isinstance(value, ast.Constant):
        return f"Constant({value.value!r})"
    if isinstance(value, ast.AST):
        fields = [
            f"{k}={_form(v)}" for k, v in ast.iter_fields(value) if v not in (None, [])
        ]
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, list):
        return f"[{', '.join(_form(v) for v in value)}]"
    return repr(value)


def _reached(tree: ast.Module, function: str, path: str) -> list[ast.stmt]:
    """The function and what it uses of its own file, in the order of the file."""
    top = {name: node for node in tree.body for name in _defined(node)}
    if function not in top:
        raise LookupError(f"{path} has no {function}")
    todo, seen = [function], set()
    while todo:
        name = todo.pop()
        if name in top and name not in seen:
            seen.add(name)
            todo += [n.id for n in ast.walk(top[name]) if isinstance(n, ast.Name)]
    return [node for node in tree.body if seen & set(_defined(node))]


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [t.id for t in node.targets if isinstance(t, ast.Name)]
    return []


def _modules(tree: ast.Module, function: str, path: str, root: Path) -> set[Path]:
    """Files of floor 1 that the function imports, and those that these import."""
    used = {
        n.id
        for node in _reached(tree, function, path)
        for n in ast.walk(node)
        if isinstance(n, ast.Name)
    }
    found: set[Path] = set()
    inside = [
        n
        for node in _reached(tree, function, path)
        for n in ast.walk(node)
        if isinstance(n, ast.ImportFrom)
    ]
    todo = [
        (n, a.name)
        for n in tree.body
        if isinstance(n, ast.ImportFrom)
        for a in n.names
        if (a.asname or a.name) in used
    ]
    todo += [(n, a.name) for n in inside for a in n.names]
    for node, name in todo:
        found |= _files(node.module or "", name, root / "src")
    return found


def _files(module: str, name: str, src: Path) -> set[Path]:
    """The file of floor 1 in which `from module import name` finds the name, and the files it imports in turn."""
    if not module.startswith("cnn_techniques"):
        return set()
    path = src / module.replace(".", "/")
    if path.is_dir():
        if (path / f"{name}.py").exists():
            return _files(f"{module}.{name}", "", src)
        for node in ast.parse((path / "__init__.py").read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ImportFrom) and any(
                (a.asname or a.name) == name for a in node.names
            ):
                return _files(f"{module}.{node.module}", name, src)
        return set()
    file = path.with_suffix(".py")
    found = {file}
    for inner in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(inner, ast.ImportFrom):
            for alias in inner.names:
                found |= _files(inner.module or "", alias.name, src)
    return found


def _lab_version(root: Path) -> str:
    for node in ast.parse(
        (root / "src/cnn_lab/record.py").read_text(encoding="utf-8")
    ).body:
        if isinstance(node, ast.Assign) and _defined(node) == ["VERSION"]:
            return _form(node.value)
    raise LookupError("src/cnn_lab/record.py has no VERSION")
