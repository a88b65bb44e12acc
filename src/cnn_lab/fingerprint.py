"""The fingerprint of a result: a hash of the code that computed it, and of its arguments.

Code is followed by name from the function that made the result, over the three floors and
the file it stands in, one top-level definition at a time (of a class without a base, the
methods whose names occur): editing what the function does not reach changes nothing. Nothing is imported or
run. Syntax trees are hashed, without docstrings, comments and input checks, so that
neither a word nor a better error message makes a result of hours stale. Libraries are not
followed; records name their versions.
"""

import ast
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any, TypeGuard

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).resolve().parents[1].name  # "src", or where a wheel is unpacked
PACKAGES = ("cnn_techniques", "cnn_lab", "cnn_site")
LIBRARIES = ("torch", "timm")  # and torchvision
# `if ...: raise ValueError(...)` refuses input: a run that came to its end met none of it.
REFUSALS = ("ValueError", "TypeError")
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Text that may name code: "resnet18", "cnn_lab.trial:fit", "ResNet(BasicBlock, (1, 1))".
SPELLED = re.compile(r"[\w.:]+(\(.*\))?", re.DOTALL)
NAME = re.compile(r"[A-Za-z_]\w*")


def fingerprint(made_by: str, arguments: Any, root: Path = ROOT) -> str:
    """Hash of the code that `made_by` reaches and of the arguments: 12 hexadecimal digits.

    Args:
        made_by: "path::name": a path from `root`, a name defined at the file's top level.
        arguments: what JSON can hold; code that texts in it name is followed too.
        root: folder of the repository.

    Raises: OSError for a file that cannot be read, LookupError for a name that it does
        not define.
    """
    digests = sorted(unit.digest for unit in reached(made_by, arguments, root))
    text = "\0".join([*digests, json.dumps(arguments, sort_keys=True)])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def fingerprint_of(run: Callable[..., Any], arguments: Any) -> str:
    """`fingerprint` of a function at hand, with what it holds as further arguments.

    Raises: ValueError for a function that is written in no file, or holds what is neither
        JSON nor a function, class or dataclass.
    """
    if isinstance(run, functools.partial):
        return fingerprint_of(run.func, [arguments, _held([run.args, run.keywords])])
    held = _held(holds(run))
    return fingerprint(made_by(run), [arguments, held] if held else arguments)


def holds(run: Callable[..., Any]) -> list[Any]:
    """The values that a closure, a method, or a function made by another one came with."""
    if isinstance(run, MethodType):
        return [run.__self__]
    held = [cell.cell_contents for cell in getattr(run, "__closure__", None) or ()]
    if "<locals>" in getattr(run, "__qualname__", ""):
        held += [*(run.__defaults__ or ()), *(run.__kwdefaults__ or {}).values()]
    return held


def made_by(run: Callable[..., Any], root: Path = ROOT) -> str:
    """ "path::name" of the top-level definition that a function is written in.

    Raises: ValueError for what is no function that is written in a file.
    """
    code = getattr(run, "__code__", None)
    path = Path(code.co_filename if code else "").resolve()
    if code and path.is_file():
        for unit in _file(path).units:
            if unit.names and code.co_firstlineno in unit.lines:
                place = path.relative_to(root) if path.is_relative_to(root) else path
                return f"{place.as_posix()}::{unit.names[0]}"
    raise ValueError(
        f"cannot follow the code of {run!r}: expected a function written in a file"
    )


def _held(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [_held(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _held(v) for k, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return [
            _held(type(value)),
            *(_held(getattr(value, f.name)) for f in fields(value)),
        ]
    if isinstance(value, type | FunctionType):
        if value.__module__.startswith((*PACKAGES, *LIBRARIES)) and "<" not in str(
            value.__qualname__
        ):
            return f"{value.__module__}:{value.__qualname__}"  # a text that is followed
        if isinstance(value, FunctionType):
            return fingerprint_of(value, None)
    raise ValueError(
        f"a run holds {value!r} ({type(value).__name__}), which cannot stand in its "
        "fingerprint: pass it as an argument that JSON can hold"
    )


def reached(made_by: str, arguments: Any, root: Path = ROOT) -> "list[Unit]":
    """The definitions that `made_by` needs, itself first; raises as `fingerprint` does."""
    path, name = made_by.split("::")
    file = _file((root / path).resolve())
    if name not in file.defined:
        raise LookupError(f"{path} defines no {name}")
    search = _Search(root / SOURCE)
    for text in _texts(arguments):
        search.read(text)
    search.add(file.defined[name])  # the last is the first to be followed
    return search.run()


class Unit:
    """A definition at the top level of a file, or a method of a class without a base."""

    def __init__(self, file: "_File", node: ast.stmt, owner: str = "") -> None:
        decorators = getattr(node, "decorator_list", [])
        self.lines = range(
            min(n.lineno for n in [node, *decorators]), (node.end_lineno or 0) + 1
        )
        self.file, self.node, self.owner = file, _bare(node), owner
        self.methods: list[Unit] = []
        if isinstance(node, ast.ClassDef) and not node.bases and not node.keywords:
            called = [
                n
                for n in node.body
                if isinstance(n, FUNCTIONS) and not n.name.startswith("__")
            ]
            self.methods = [Unit(file, n, owner=node.name) for n in called]
            node.body = [n for n in node.body if n not in called]

    @functools.cached_property
    def names(self) -> list[str]:
        """What the definition binds at the top level of its file."""
        return list(_bound(self.node))

    @functools.cached_property
    def imports(self) -> dict[str, list[str]]:
        """Local name -> what imports inside the definition bind it to."""
        return _imported(self.node)

    @functools.cached_property
    def chains(self) -> set[tuple[str, ...]]:
        """Names with the attributes that follow: `F.relu(x)` -> (F, relu) and (x,)."""
        inner: set[ast.AST] = set()
        chains = set()
        for node in ast.walk(self.node):  # an attribute comes before what it is of
            chain, at = [], node
            while isinstance(at, ast.Attribute):
                chain.append(at.attr)
                inner.add(at := at.value)
            if isinstance(at, ast.Name) and node not in inner:
                chains.add((at.id, *reversed(chain)))
        return chains

    @functools.cached_property
    def texts(self) -> list[str]:
        return [str(n.value) for n in ast.walk(self.node) if _is_text(n)]

    @functools.cached_property
    def registered(self) -> list[tuple[str, list[str]]]:
        """Of decorators such as `@app.command("train")`: (app, [train])."""
        registered = []
        for decorator in getattr(self.node, "decorator_list", []):
            call = decorator.func if isinstance(decorator, ast.Call) else decorator
            if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name):
                arguments = decorator.args if isinstance(decorator, ast.Call) else []
                registered.append(
                    (call.value.id, [str(n.value) for n in arguments if _is_text(n)])
                )
        return registered

    @functools.cached_property
    def digest(self) -> str:
        """Of the syntax tree, and of what the names stand for that its file imports."""
        used = {name for name, *_ in self.chains} & set(self.file.imports)
        meant = [f"{name}={self.file.imports[name]}" for name in sorted(used)]
        text = "\0".join([self.owner, _form(self.node), *meant])
        return hashlib.sha256(text.encode()).hexdigest()


class _File:
    """What a file defines and imports at its top level."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.units: list[Unit] = []
        self.imports: dict[str, list[str]] = {}
        self.defined: dict[str, list[Unit]] = {}
        self.effects: list[Unit] = []  # bind no name: run whenever the file is imported
        self.main: list[Unit] = []  # run when the file is the program
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            test = ast.unparse(node.test) if isinstance(node, ast.If) else ""
            if test.endswith("TYPE_CHECKING"):
                continue
            if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
                for name, targets in _imported(node).items():
                    self.imports.setdefault(name, []).extend(targets)
            if isinstance(node, ast.Import | ast.ImportFrom):
                continue
            if isinstance(node, ast.Expr) and _is_text(node.value):  # docstring
                continue
            unit = Unit(self, node)
            self.units.append(unit)
            for name in unit.names:
                self.defined.setdefault(name, []).append(unit)
            if test.startswith("__name__"):
                self.main.append(unit)
            elif not unit.names:
                self.effects.append(unit)


def _file(path: Path) -> _File:
    """Parsed once for each time it was written."""
    return _parsed(path, path.stat().st_mtime_ns)


@functools.cache
def _parsed(path: Path, written: int) -> _File:
    return _File(path)


class _Search:
    """Collects what is reached; what goes by a name is taken once the name is known."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.units: dict[Unit, None] = {}
        self.todo: list[Unit | str] = []
        self.names: set[str] = set()
        self.waiting: dict[str, list[Unit | str]] = {}
        self.followed: set[str] = set()

    def add(self, things: Iterable[Unit | str]) -> None:
        self.todo.extend(things)

    def know(self, names: Iterable[str]) -> None:
        for name in set(names) - self.names:
            self.names.add(name)
            self.add(self.waiting.pop(name, ()))

    def wait(self, name: str, thing: Unit | str) -> None:
        if name in self.names:
            self.add([thing])
        else:
            self.waiting.setdefault(name, []).append(thing)

    def run(self) -> list[Unit]:
        while self.todo:
            thing = self.todo.pop()
            if isinstance(thing, str):
                self.follow(thing)
            elif thing not in self.units:
                self.units[thing] = None
                self.reach(thing)
        return list(self.units)

    def reach(self, unit: Unit) -> None:
        file = unit.file
        self.add(file.effects)
        for first, *rest in unit.chains:
            self.add(file.defined.get(first, ()))
            for imports in (unit.imports, file.imports):
                self.add(self.target(file, t, rest) for t in imports.get(first, ()))
        self.know(n.attr for n in ast.walk(unit.node) if isinstance(n, ast.Attribute))
        for method in unit.methods:
            self.wait(method.names[0], method)
        for other in file.units:
            for registrar, words in other.registered:
                if registrar in unit.names:
                    for word in words:
                        self.wait(word, other)
                    self.add([] if words else [other])
        for text in unit.texts:
            if SPELLED.fullmatch(text):
                self.read(text)

    def target(self, file: _File, imported: str, attributes: Sequence[str]) -> str:
        """What an import of `file` means, with the attributes of it: `module:a.b`."""
        module, _, name = imported.partition(":")
        if dots := len(module) - len(module.lstrip(".")):
            if not file.path.is_relative_to(self.source):
                return ""
            parents = file.path.relative_to(self.source).parts[:-dots]
            module = ".".join([*parents, module[dots:]]).strip(".")
        return f"{module}:{'.'.join(filter(None, [name, *attributes]))}"

    def read(self, text: str) -> None:
        """Text names code by its words; or a module, which then may be the program."""
        self.know(NAME.findall(text))
        dotted, _, attributes = text.partition("(")[0].strip(".").partition(":")
        module, *rest = dotted.split(".")
        while rest and _module(self.source, f"{module}.{rest[0]}"):
            module = f"{module}.{rest.pop(0)}"
        if module.startswith(PACKAGES):
            self.add([f"{module}:{'.'.join(filter(None, [*rest, attributes]))}"])
            main = _module(self.source, f"{module}.__main__")
            for program in filter(None, [main or _module(self.source, module)]):
                self.add(program.main)

    def follow(self, target: str) -> None:
        """To the definition that is meant. Of a module, each name waits to be known."""
        module, _, name = target.partition(":")
        foreign = module.partition(".")[0] not in PACKAGES
        if foreign or module == __name__ or target in self.followed:
            return  # how a result is named does not change it
        self.followed.add(target)
        attributes = name.split(".") if name else []
        while attributes and (file := _module(self.source, module)):
            first, *rest = attributes
            imported = [self.target(file, t, []) for t in file.imports.get(first, ())]
            inside = f"{module}.{first}"
            if first in file.defined:
                return self.add(file.defined[first])
            if imported and f"{module}:{first}" not in imported:
                return self.add(self.target(file, t, rest) for t in imported)
            if not _module(self.source, inside):
                return None
            module, attributes = inside, rest
        if file := _module(self.source, module):
            folder = file.path.parent if file.path.stem == "__init__" else file.path
            modules = [p.stem for p in folder.glob("*")]
            for name in {*file.defined, *file.imports, *modules}:
                self.wait(name, f"{module}:{name}")
        return None


def _module(source: Path, name: str) -> _File | None:
    """The file of a module of the floors."""
    place = source.joinpath(*name.split("."))
    for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
        if name.startswith(PACKAGES) and path.is_file():
            return _file(path)
    return None


def _imported(tree: ast.AST) -> dict[str, list[str]]:
    """Name -> "module:name" that is imported under it."""
    imported: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                target = alias.name if alias.asname else first
                imported.setdefault(alias.asname or first, []).append(f"{target}:")
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                target = f"{module}:{alias.name}"
                imported.setdefault(alias.asname or alias.name, []).append(target)
    return imported


def _bound(node: ast.AST) -> Iterator[str]:
    """The names that a top-level statement binds, imports left out."""
    if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        for inner in (n for target in targets for n in ast.walk(target)):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Store):
                yield inner.id
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif not isinstance(node, ast.Expr):
        for child in ast.iter_child_nodes(node):
            yield from _bound(child)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _texts([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _is_text(node: Any) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


class _Guards(ast.NodeTransformer):
    def visit_If(self, node: ast.If) -> ast.AST | None:
        self.generic_visit(node)
        before, last = node.body[:-1], node.body[-1] if node.body else None
        raised = last.exc if isinstance(last, ast.Raise) else None
        kind = raised.func if isinstance(raised, ast.Call) else raised
        refuses = isinstance(kind, ast.Name) and kind.id in REFUSALS
        words = all(isinstance(n, ast.Assign) for n in before)
        idle = last is None or (refuses and words)  # None: held such checks alone
        return None if idle and not node.orelse else node


def _bare(tree: ast.stmt) -> ast.AST:
    """Without docstrings and without what only refuses bad input."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, *FUNCTIONS)) and ast.get_docstring(node):
            node.body = node.body[1:]
    return _Guards().visit(tree) or ast.Pass()


def _form(value: Any) -> str:
    """A syntax tree as text that is the same in every version of Python (`ast.dump` is not)."""
    if isinstance(value, ast.Constant):
        return f"Constant({value.value!r})"
    if isinstance(value, ast.AST):
        inner = [
            f"{k}={_form(v)}" for k, v in ast.iter_fields(value) if v not in (None, [])
        ]
        return f"{type(value).__name__}({', '.join(inner)})"
    if isinstance(value, list):
        return f"[{', '.join(_form(v) for v in value)}]"
    return repr(value)
