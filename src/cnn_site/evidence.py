"""Records: what was computed, compared and measured for a technique, written by the code that verifies it.

One JSON file a technique under docs/evidence. Stale means that an integer, a shape, a name, a hash or the schema number
differs; a measured difference is compared with its bound; dates, seconds and versions never make a record stale.
"""

import ast
import copy
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnn_lab import fingerprint

from . import ROOT, snake

if TYPE_CHECKING:
    from .approximation import Approximation
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
# What a proof calls on its evidence, and the section of the record that this writes.
WRITES = {
    "computed": "computed",
    "equivalent": "equivalence",
    "approximated": "approximation",
    "measured": "measured",
}
Json = dict[str, Any]


class StaleRecord(AssertionError):
    """A record says something else than the code does now."""


def load(slug: str, folder: Path = FOLDER) -> Json:
    """The record of a technique, or an empty one, to be read only; ValueError for a record of another schema version."""
    path = folder / f"{slug}.json"
    if not path.exists():
        return {"schema": SCHEMA, "technique": slug}
    record = _read(path, path.stat().st_mtime_ns)
    if record.get("schema") != SCHEMA:
        raise ValueError(
            f"{path}: schema {record.get('schema')!r}, but this version reads {SCHEMA}; "
            f"make the record again: pytest --update-evidence {proof(slug)}"
        )
    return record


@cache
def _read(path: Path, written: int) -> Json:
    record: Json = json.loads(path.read_text(encoding="utf-8"))
    return record


def save(record: Json, folder: Path = FOLDER) -> None:
    path = folder / f"{record['technique']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_laid_out(record) + "\n", encoding="utf-8")
    _read.cache_clear()  # two writes may share a time


def _laid_out(value: Any, indent: str = "\n") -> str:
    """JSON with a list of plain values on one line: a diff shows what changed, not a column of commas."""
    deeper = indent + " "
    if isinstance(value, dict) and value:
        rows = [
            f"{json.dumps(k, ensure_ascii=False)}: {_laid_out(v, deeper)}"
            for k, v in value.items()
        ]
        return "{" + deeper + f",{deeper}".join(rows) + indent + "}"
    if isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        rows = [_laid_out(v, deeper) for v in value]
        return "[" + deeper + f",{deeper}".join(rows) + indent + "]"
    return json.dumps(value, ensure_ascii=False)


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
        test: the test that asks, "path::name": made by it is what a closure measures.
    """

    def __init__(
        self,
        slug: str,
        update: bool = False,
        folder: Path = FOLDER,
        test: str = "",
    ) -> None:
        self.slug, self.update, self.folder, self.test = slug, update, folder, test

    @cached_property
    def command(self) -> str:
        return f"pytest --update-evidence {proof(self.slug)}"

    def computed(self, table: str, rows: dict[str, Json]) -> None:
        """A table of numbers that follow from the code: row key -> name and quantities.

        Raises: StaleRecord where the record says something else.
        """
        self._check_or_write("computed", table, _plain(rows))

    def equivalent(
        self, name: str, comparison: "Comparison", *, reference: str, settings: str = ""
    ) -> None:
        """A comparison that was within its bounds. The sizes of the differences never make the record stale.

        `settings` is what the proof chose; what the helper knows itself (parameters paired by order) is added.
        """
        facts = _plain(vars(comparison))
        all_settings = "; ".join(filter(None, [settings, *facts.pop("settings")]))
        facts = {"reference": reference, "settings": all_settings, **facts}
        sizes = ("output", "gradient", "buffers")
        keep = {k: v for k, v in facts.items() if k not in sizes}
        self._check_or_write(
            "equivalence",
            name,
            facts,
            compared=lambda row: {k: row.get(k) for k in keep},
            stamp=reference,
        )

    def approximated(
        self,
        name: str,
        approximation: "Approximation",
        *,
        reference: str,
        settings: str = "",
    ) -> None:
        """A changed network that is near enough to `reference`. The sizes of the noise never make the record stale."""
        values = _plain(vars(approximation))
        facts = {"reference": reference, "settings": settings, **values}

        def form(row: Json) -> Json:
            kept = {k: row.get(k) for k in facts if k not in ("snr", "output")}
            return {**kept, "layers": list(row.get("layers", {}))}

        self._check_or_write("approximation", name, facts, compared=form, stamp="torch")

    def measured(self, name: str, *, arguments: Json, run: Callable[..., Json]) -> Json:
        """A costly result: runs `run(**arguments)` and writes it with date, versions, hardware and its fingerprint."""
        from cnn_lab.record import environment

        if not self.update:
            raise StaleRecord(
                f"measured results are made on purpose: {self.command} -m record"
            )
        holds_values = fingerprint.holds(run) or not hasattr(run, "__code__")
        made_by = self.test if holds_values and self.test else fingerprint.made_by(run)
        arguments = _plain(arguments)
        # Before the run: who edits the code meanwhile has a stale result.
        code = fingerprint.fingerprint(made_by, arguments)
        result = _plain(run(**arguments))
        record = copy.deepcopy(load(self.slug, self.folder))
        record.setdefault("measured", {})[name] = {
            "made_by": made_by,
            "hash": code,
            "arguments": arguments,
            "environment": environment(),
            "result": result,
        }
        save(record, self.folder)
        return result

    def ran(
        self, device: str, blocks: list[Json], seconds: list[float], environment: Json
    ) -> None:
        """The blocks of the page ran as shown: the verified stamp."""
        self._check_or_write("blocks", "", blocks)
        run = {
            **environment,
            "blocks": [b["hash"] for b in blocks],
            "seconds": [round(s, 3) for s in seconds],
        }
        self._check_or_write("runs", device, run, compared=lambda r: r.get("blocks"))

    def on_device(self, device: str, rows: dict[str, Json], environment: Json) -> None:
        """Each module against its own float64 result on the CPU."""
        self._check_or_write(
            "devices",
            device,
            {**environment, "rows": rows},
            compared=lambda r: sorted(r.get("rows", {})),
        )

    def _check_or_write(
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
            lines = "\n  ".join(stale[:8])
            raise StaleRecord(
                f"docs/evidence/{self.slug}.json: {section} {key} is stale:\n  {lines}\nif the code is right: {self.command}"
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
        record = copy.deepcopy(record)
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


# --- what no longer has a proof ---------------------------------------------------------------------------------------


def may_name(test: str, texts: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    """(section, pattern of keys) that a test may write, read from its code: it need not run.

    Args:
        test: "path::name". A key that it computes may be any text that it reaches in the proof file, but for those
            beside a key.
        texts: of its parameters, which such a key may be too.
    """
    units = fingerprint.reached(test, [])
    inside = [n for unit in units for n in ast.walk(unit.node)]
    own = [n for u in units if u.file is units[0].file for n in ast.walk(u.node)]
    writes = {
        call: WRITES[call.func.attr]
        for call in inside
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in WRITES
        and call.args
    }
    beside = {
        n for c in writes for a in [*c.args[1:], *c.keywords] for n in ast.walk(a)
    }
    texts = [*map(re.escape, texts), *(_pattern(n) for n in own if n not in beside)]
    for call, section in writes.items():
        if isinstance(call.args[0], ast.Constant):
            yield section, re.escape(str(call.args[0].value))
        else:
            yield from ((section, text) for text in texts if text)


def _pattern(node: ast.AST) -> str:
    """What a text, an f-string or one for `format` can become; empty for anything else, and without a spelled-out part."""
    if isinstance(node, ast.JoinedStr):
        pattern = "".join(_pattern(n) or ".*" for n in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        pattern = re.sub(r"\\{.*?\\}", ".*", re.escape(node.value))
    else:
        return ""
    return pattern if re.search(r"\w", pattern) else ""


def drop_orphans(
    slug: str,
    names: Iterable[tuple[str, str]],
    update: bool = False,
    folder: Path = FOLDER,
) -> None:
    """Delete from a record what no test names, or refuse it.

    Args:
        names: (section, pattern of keys) of all tests of the proof file.

    Raises: StaleRecord for what is in the record only, without `update`.
    """
    record, names = load(slug, folder), list(names)
    orphans = [
        (section, key)
        for section in WRITES.values()
        for key in record.get(section, {})
        if not any(s == section and re.fullmatch(p, key) for s, p in names)
    ]
    if orphans and not update:
        raise StaleRecord(
            f"docs/evidence/{slug}.json: record only: {'; '.join(map(' '.join, orphans))}: no test of {proof(slug)} "
            'names it (a name that is computed needs a part that is spelled out: f"then_{name}", not f"{name}"); '
            f"to delete it: pytest --update-evidence {proof(slug)}"
        )
    if orphans:
        record = copy.deepcopy(record)
        for section, key in orphans:
            del record[section][key]
        save({k: v for k, v in record.items() if v != {}}, folder)


# --- what other code measured -----------------------------------------------------------------------------------------


def stale_measurements(
    slug: str, folder: Path = FOLDER, root: Path = ROOT
) -> list[str]:
    """A line for each measured result whose code is no longer the code that made it."""
    stale = []
    for name, entry in load(slug, folder).get("measured", {}).items():
        try:
            now = fingerprint.fingerprint(entry["made_by"], entry["arguments"], root)
        except (OSError, LookupError) as error:
            now = f"not to be had ({error})"
        if now != entry["hash"]:
            stale.append(
                f"docs/evidence/{slug}.json: measured {name} was made by code with hash {entry['hash']}, now it is {now}; "
                f"make it again: pytest --update-evidence -m record {entry['made_by'].split('::')[0]}"
            )
    return stale
