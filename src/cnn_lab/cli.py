"""The command `cnn-lab`."""

import dataclasses
import functools
import inspect
import json
import sys
from collections.abc import Callable
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer import Option

from . import networks, show
from .checkpoint import NotACheckpoint
from .fit import BadData
from .recipe import Recipe
from .train import CONFIG, Refused, Settings, Stopped
from .train import train as carry_out

app = typer.Typer(
    name="cnn-lab",
    help="Train, transfer, evaluate, export and compare convolutional networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
EXPECTED = (BadData, NotACheckpoint, Refused, FloatingPointError, OSError, ValueError)


USAGE: Any = typer.BadParameter.__base__  # a wrong option or argument


def main() -> None:
    """Runs the command; what can go wrong is one line, and an exit code that is not 0.

    1: it cannot be done; 2: it is not asked for rightly; 130: stopped, and saved.
    """
    try:
        raise SystemExit(app(standalone_mode=False))
    except USAGE as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            raise SystemExit(2) from None
        _end(_line(error.format_message()), 2)
    except typer.Abort:
        _end("stopped", 130)
    except Stopped as error:
        _end(str(error), 130)
    except EXPECTED as error:
        _end(_line(error), 1)


def _line(error: BaseException | str) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def _end(message: str, code: int) -> NoReturn:
    print(f"cnn-lab: {message}", file=sys.stderr)
    raise SystemExit(code)


def of_recipe(
    *, without: tuple[str, ...] = (), **defaults: Any
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a recipe, which it gets as its first argument.

    Args:
        without: fields that are no options of this command.
        defaults: instead of the recipe's own.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in list(inspect.signature(command).parameters.values())[1:]
        ]
        fields = [f for f in dataclasses.fields(Recipe) if f.name not in without]
        options = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                annotation=field.type,
                default=_default(field, defaults),
            )
            for field in fields
        ]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            values = {f.name: given.pop(f.name) for f in fields}
            command(Recipe(**{**defaults, **values}), **given)

        run.__signature__ = inspect.Signature([*options, *own])  # type: ignore[attr-defined]
        return run

    return decorate


def _default(field: dataclasses.Field[Any], defaults: dict[str, Any]) -> Any:
    if field.name in defaults:
        return defaults[field.name]
    none = field.default is dataclasses.MISSING
    return inspect.Parameter.empty if none else field.default


def _configured(context: typer.Context, path: Path | None) -> Path | None:
    """The options that a file holds become the defaults."""
    if path is not None:
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            context.default_map = {**(context.default_map or {}), **saved}
        except (OSError, ValueError, TypeError) as error:
            raise typer.BadParameter(
                f"{path} is no saved configuration: {error}"
            ) from None
        known = {p.name for p in context.command.params}
        unknown = set(saved) - known
        if unknown:
            raise typer.BadParameter(
                f"{path} has options that do not exist: {', '.join(sorted(unknown))}"
            )
    return path


def _resumed(context: typer.Context, path: Path | None) -> Path | None:
    if path is not None:
        _configured(context, path / CONFIG)
    return path


RUN = "Run"
Out = Annotated[
    Path | None,
    Option(help="Folder of the run; else runs/NETWORK-DATA.", rich_help_panel=RUN),
]
Resume = Annotated[
    Path | None,
    Option(
        help="Go on with the run of this folder.",
        callback=_resumed,
        is_eager=True,
        rich_help_panel=RUN,
    ),
]
Config = Annotated[
    Path | None,
    Option(
        help="Take options from a run's config.json; those given here come first.",
        callback=_configured,
        is_eager=True,
        rich_help_panel=RUN,
    ),
]
Root = Annotated[
    Path,
    Option(
        help="Where data sets are, in torchvision's folders.",
        envvar="CNN_LAB_ROOT",
        rich_help_panel=RUN,
    ),
]
Download = Annotated[
    bool,
    Option("--download", help="Fetch a data set that is missing.", rich_help_panel=RUN),
]
Workers = Annotated[
    int | None,
    Option(min=0, help="Processes that load images.", rich_help_panel=RUN),
]
SaveEvery = Annotated[
    int,
    Option(
        min=0,
        help="Steps between checkpoints; 0: at the end of each epoch.",
        rich_help_panel=RUN,
    ),
]
Track = Annotated[
    str,
    Option(
        help="A tracker: tensorboard, or another that Accelerate knows (untested).",
        rich_help_panel=RUN,
    ),
]


def _run(
    recipe: Recipe,
    out: Path | None,
    resume: Path | None,
    settings: Settings,
) -> None:
    if out and resume and out != resume:
        raise Refused(f"--resume {resume} goes on in its own folder, not in {out}")
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in recipe.data)
    name = "".join(c for c in recipe.network if c.isalnum() or c in "-_")
    folder = resume or out or Path("runs") / f"{name}-{plain}"
    result = carry_out(
        recipe, folder, settings, resume=resume is not None, show=show.on(sys.stdout)
    )
    print(
        f"{folder}: accuracy {result['accuracy']:.2%} of {result['images']} test images"
    )


@app.command("train")
@of_recipe()
def train(
    recipe: Recipe,
    out: Out = None,
    resume: Resume = None,
    config: Config = None,
    root: Root = Path("data"),
    download: Download = False,
    workers: Workers = None,
    save_every: SaveEvery = 0,
    track: Track = "",
) -> None:
    """Train a network.

    The run is kept in a folder: its options, its checkpoint, its result.
    """
    _run(recipe, out, resume, Settings(root, download, workers, save_every, track))


@app.command("list")
def listed() -> None:
    """Tell which networks there are."""
    for name in networks.networks():
        print(name)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"cnn-lab {installed('cnn-techniques')}, torch {installed('torch')}")
        raise typer.Exit


@app.callback()
def _cnn_lab(
    version: Annotated[
        bool,
        Option("--version", help="Tell the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    pass
