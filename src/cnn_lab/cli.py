"""The command `cnn-lab`."""

import dataclasses
import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer import Argument, Option

from . import compare as comparison
from . import curves, networks, object_networks, objects, show
from .checkpoint import NotACheckpoint
from .compress import compress as make_smaller
from .export import Format
from .export import export as write_out
from .fit import BadData
from .own import is_code
from .predict import report as report_predicted
from .recipe import WHAT, Recipe, Settings, Strategy
from .report import report
from .saved import BEST, CONFIG, LAST
from .smaller import Method
from .sources import NAMES as DATA
from .stop import Refused, Stopped, one_line, out_of_memory
from .tasks import CLASSIFY, Task
from .train import rehearse
from .train import train as carry_out

app = typer.Typer(
    name="cnn-lab",
    help="Train, transfer, evaluate, export, compress and compare convolutional networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
EXPECTED = (BadData, NotACheckpoint, Refused, FloatingPointError, OSError, ValueError)


USAGE: Any = typer.BadParameter.__base__  # a wrong option or argument


def main() -> None:
    """Runs the command; what can go wrong is one line, and an exit code that is not 0.

    1: it cannot be done; 2: it is not asked for rightly; 130 (Ctrl-C), 143 (SIGTERM) or
    129 (SIGHUP): stopped, and saved.
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
        code = 128 + error.number
        if not _first_process():
            raise SystemExit(code) from None
        _end(str(error), code)
    except EXPECTED as error:
        _end(_line(error), 1)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        _end(f"no memory is left ({one_line(error)}): free some, and try again", 1)


def _line(error: BaseException | str) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())


def _first_process() -> bool:
    """Of several processes one tells what all have to tell."""
    return os.environ.get("RANK", "0") == "0"


def _end(message: str, code: int) -> NoReturn:
    print(f"cnn-lab: {message}", file=sys.stderr)
    raise SystemExit(code)


REQUIRED = inspect.Parameter.empty


def recipe_options(
    *,
    without: tuple[str, ...] = (),
    types: Mapping[str, Any] | None = None,
    **defaults: Any,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a recipe, which it gets as its first argument.

    Args:
        without: fields that are no options of this command.
        types: instead of the recipe's own, for an option that is an argument here.
        defaults: instead of the recipe's own; `REQUIRED` for none.
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
                annotation=(types or {}).get(field.name, field.type),
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
    return REQUIRED if none else field.default


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
        known |= {
            f.name for kind in (Recipe, Settings) for f in dataclasses.fields(kind)
        }
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
DryRun = Annotated[
    bool,
    Option(
        "--dry-run",
        help="Tell what there is to learn from, and stop before the first step.",
        rich_help_panel=RUN,
    ),
]

Photos = Annotated[
    str,
    Argument(
        metavar="PHOTOS", help=f"A folder of photos, or one of {', '.join(DATA[:-1])}."
    ),
]
Network = Annotated[
    str,
    Option(help="A network, as `cnn-lab train` names it.", rich_help_panel=WHAT),
]


def _run(
    recipe: Recipe,
    out: Path | None,
    resume: Path | None,
    settings: Settings,
    dry_run: bool = False,
    task: Task = CLASSIFY,
) -> None:
    command = object_networks.command_of(recipe.network)
    known = recipe.network.partition("(")[0] in networks.networks()
    if command != task.command and (command in object_networks.PLACES or known):
        raise Refused(f"{recipe.network} is for `cnn-lab {command}`")
    if out and resume and out != resume:
        raise Refused(f"--resume {resume} goes on in its own folder, not in {out}")
    folder = resume or out or Path("runs") / _folder_name(recipe)
    if dry_run:
        shown = show.display_for(sys.stdout) if _first_process() else show.Silent()
        data = rehearse(
            recipe,
            folder,
            settings,
            resume=resume is not None,
            show=shown,
            task=task,
        )
        shown.note(show.summary(recipe.data, data))
        return
    result = carry_out(
        recipe,
        folder,
        settings,
        resume=resume is not None,
        show=show.display_for(sys.stdout),
        task=task,
    )
    if _first_process():
        _draw(recipe, result, folder)
        print(
            f"{folder}: {_measure(result)} "
            f"of {result['images']} test images{_chosen(result)}"
        )


def _measure(result: dict[str, Any]) -> str:
    """That of the test part, whatever the epoch was chosen by."""
    tested = {k: v for k, v in result.items() if not k.startswith("validation_")}
    name, value = show.measure_of(tested)
    return f"{name} {value:.2%}"


def _draw(recipe: Recipe, result: dict[str, Any], folder: Path) -> None:
    """The curves; the run has ended well without them too."""
    message = ""
    try:
        curves.draw(recipe, result, folder)
    except ImportError:
        message = "matplotlib is missing: pip install matplotlib"
    except OSError as error:
        message = _line(error)
    if message:
        print(f"cnn-lab: the curves are not drawn: {message}", file=sys.stderr)


def _chosen(result: dict[str, Any]) -> str:
    if "validation_accuracy" not in result:
        return ""
    return (
        f", after epoch {result['epoch']}, which did best on "
        f"{result['validation_images']} validation images"
    )


@app.command("train")
@recipe_options()
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
    dry_run: DryRun = False,
) -> None:
    """Train a network.

    The run is kept in a folder: its options, its checkpoint, its result. Page lab/train.
    """
    settings = Settings(root, download, workers, save_every, track)
    _run(recipe, out, resume, settings, dry_run)


@app.command("transfer")
@recipe_options(
    types={"data": Photos, "network": Network},
    data=REQUIRED,
    network="efficientnet_lite0",
    weights="imagenet",
    strategy=Strategy.features,
)
def transfer(
    recipe: Recipe,
    out: Out = None,
    resume: Resume = None,
    config: Config = None,
    root: Root = Path("data"),
    download: Download = False,
    workers: Workers = None,
    save_every: SaveEvery = 0,
    track: Track = "",
    dry_run: DryRun = False,
) -> None:
    """Train a network, or part of it, that others have trained before.

    PHOTOS has a folder for every class, or train and test (or val) that have. Pages
    lab/transfer, modern/efficientnet.
    """
    named = recipe.data in DATA or is_code(recipe.data)
    if not named and not recipe.data.startswith("folder:"):
        recipe = dataclasses.replace(recipe, data=f"folder:{recipe.data}")
    settings = Settings(root, download, workers, save_every, track)
    _run(recipe, out, resume, settings, dry_run)


# Options of a recipe that are of classifiers alone.
CLASSIFIERS = (
    *("augment", "mixup", "cutmix", "label_smoothing", "norm", "stochastic_depth"),
    *("dropblock", "validate", "patience", "strategy", "last", "decay"),
    *("sam", "mixed_precision", "compile", "deterministic"),
)
Objects = Annotated[
    str,
    Option(help=f"Data: {', '.join(objects.NAMES)}.", rich_help_panel=WHAT),
]
Side = Annotated[
    int | None,
    Option(
        min=1,
        help=f"Height and width that images are fitted into; else {objects.SIZE}, and "
        "96 for scenes.",
        rich_help_panel=WHAT,
    ),
]


Weights = Annotated[
    str,
    Option(
        help="Where to start: a checkpoint or a file of weights of that network, of other "
        "classes too.",
        rich_help_panel=WHAT,
    ),
]


def _network(command: str) -> Any:
    return Annotated[
        str,
        Argument(
            help=f"A network: {', '.join(object_networks.names(command))}; or a call as in "
            f'Python, such as "{object_networks.names(command)[-1]}(width=24)".'
        ),
    ]


def _add(command: str, text: str) -> None:
    """A command that trains networks of another task."""

    @recipe_options(
        without=CLASSIFIERS,
        types={
            "network": _network(command),
            "data": Objects,
            "size": Side,
            "weights": Weights,
        },
        data=objects.SCENES,
        epochs=8,
        batch_size=8,
        learning_rate=2e-3,
    )
    def run(
        recipe: Recipe,
        out: Out = None,
        resume: Resume = None,
        config: Config = None,
        workers: Workers = None,
        save_every: SaveEvery = 0,
        track: Track = "",
        dry_run: DryRun = False,
    ) -> None:
        settings = Settings(workers=workers, save_every=save_every, track=track)
        _run(recipe, out, resume, settings, dry_run, objects.TASKS[command])

    run.__doc__ = text
    app.command(command)(run)


_add(
    "detect",
    """Train a network to find objects: boxes, classes and scores.

    Images are composed scenes, or those of a JSON file in COCO's form. Page lab/detect.
    """,
)
_add(
    "segment",
    """Train a network to label every pixel.

    Images are composed scenes, or those of a JSON file in COCO's form. Page lab/detect.
    """,
)


def _folder_name(recipe: Recipe) -> str:
    plain = "".join(c if c.isalnum() or c in "-_." else "-" for c in recipe.data)
    name = "".join(c for c in recipe.network if c.isalnum() or c in "-_")
    return f"{name}-{plain}"


@app.command("compare")
@recipe_options(without=("seed",))
def compare(
    recipe: Recipe,
    arms: Annotated[
        list[str],
        Option(
            "--with",
            metavar="OPTION=VALUE",
            help="An arm: the baseline with this option changed, such as mixup=0.2 or "
            "network=resnet34; several with ' and ' between. Again for another arm.",
        ),
    ] = [],  # noqa: B006
    seeds: Annotated[int, Option(min=2, help="Runs of each arm.")] = 5,
    out: Annotated[
        Path | None,
        Option(
            help="Folder of the comparison; else runs/compare-NETWORK-DATA.",
            rich_help_panel=RUN,
        ),
    ] = None,
    config: Config = None,
    root: Root = Path("data"),
    download: Download = False,
    workers: Workers = None,
) -> None:
    """Tell what techniques are worth: a baseline, and one option changed at a time.

    The options are those of the baseline. All arms have its budget and the same seeds.
    The same command again goes on after a stop. Page lab/compare.
    """
    folder = out or Path("runs") / f"compare-{_folder_name(recipe)}"
    if (command := object_networks.command_of(recipe.network)) != CLASSIFY.command:
        raise Refused(f"{recipe.network} is for `cnn-lab {command}`")
    changed = [_arm(recipe, text) for text in arms]
    settings = Settings(root, download, workers)
    result = comparison.compare(recipe, changed, folder, settings, seeds=seeds)
    comparison.print_result(result, folder)


def _arm(baseline: Recipe, text: str) -> Recipe:
    """The baseline with the options of `text` changed, read as a command reads them."""
    recipes: list[Recipe] = []
    reader = typer.Typer(add_completion=False)

    @reader.command(add_help_option=False)
    @recipe_options(**vars(baseline))
    def arm(recipe: Recipe) -> None:
        recipes.append(recipe)

    network, options = [], []
    for part in text.split(" and "):
        name, _, value = part.strip().partition("=")
        if name == "network":
            network = [value]
        else:
            options.append(f"--{part.strip()}")
    try:
        reader([*network, *options], standalone_mode=False)
    except USAGE as error:
        raise USAGE(f"--with {text!r}: {error.format_message()}") from None
    except ValueError as error:
        raise USAGE(f"--with {text!r}: {error}") from None
    return recipes[0]


def _run_checkpoint(path: Path) -> Path:
    """The checkpoint of a run's folder: the one whose accuracy its result tells."""
    existing = [path / name for name in (BEST, LAST) if (path / name).exists()]
    return existing[0] if existing else path


Checkpoint = Annotated[
    Path,
    Argument(
        metavar="CHECKPOINT",
        help="The last.safetensors (or best.safetensors) of a run, or the run's folder.",
        callback=_run_checkpoint,
    ),
]
Measured = Annotated[
    Path,
    Argument(
        metavar="CHECKPOINT",
        help="The last.safetensors of a run, the run's folder, or predictions in a .csv.",
        callback=_run_checkpoint,
    ),
]
Tests = Annotated[
    str,
    Option(
        help=f"Data set with the same classes: {', '.join(DATA)}. Else the run's own."
    ),
]
Own = Annotated[
    str,
    Option(
        metavar="PACKAGE.MODULE:FUNCTION",
        help="What made the network, where it is code of your own.",
    ),
]


@app.command("evaluate")
def evaluate(
    checkpoint: Measured,
    data: Tests = "",
    root: Root = Path("data"),
    download: Download = False,
    workers: Workers = None,
    network: Own = "",
    as_json: Annotated[
        Path | None,
        Option("--json", help="File for the measures; - writes them, not the table."),
    ] = None,
    confusion: Annotated[
        Path | None,
        Option(help="File for the confusion matrix; ends in .png or .svg."),
    ] = None,
) -> None:
    """Measure a trained network on the test part of its data, or predictions in a file.

    A CSV file has the column `true`, and `predicted` or a column for each class.
    The interval of the accuracy is Wilson's, at 95 %. Pages
    lab/evaluate-and-export, evaluation/classification-metrics.
    """
    settings = Settings(root, download, workers)
    report(checkpoint, data, settings, as_json, confusion, network)


@app.command("predict")
def predict(
    checkpoint: Checkpoint,
    images: Annotated[
        list[Path],
        Argument(metavar="IMAGE", help="Files, or folders of photos."),
    ],
    top: Annotated[int, Option(min=1, help="Classes told of each image.")] = 5,
    network: Own = "",
    as_json: Annotated[
        Path | None,
        Option("--json", help="File for the classes; - writes them, not the lines."),
    ] = None,
    out: Annotated[
        Path | None,
        Option(
            help="Folder for the pictures of what `detect` or `segment` has trained, or of "
            "--explain; else predictions beside the checkpoint."
        ),
    ] = None,
    explain: Annotated[
        bool,
        Option(
            "--explain",
            help="Draw where in each image is what speaks for its first class (Grad-CAM).",
        ),
    ] = False,
) -> None:
    """Tell what a trained network takes images for.

    An image that cannot be read is told; the others are predicted all the same. Page
    lab/evaluate-and-export.
    """
    report_predicted(checkpoint, images, top, as_json, network, out, explain)


@app.command("export")
def export(
    checkpoint: Checkpoint,
    to: Annotated[Format, Option(help="The format.")] = Format.onnx,
    int8: Annotated[
        bool,
        Option("--int8", help="In 8 bits, calibrated on training images."),
    ] = False,
    out: Annotated[
        Path | None,
        Option(help="The file; else model.onnx (model.int8.onnx) beside it."),
    ] = None,
    data: Tests = "",
    root: Root = Path("data"),
    download: Download = False,
    network: Own = "",
) -> None:
    """Write a trained network as a file for other programs.

    It appears only if onnxruntime computes the same from it, on test images. Page
    lab/evaluate-and-export.
    """
    settings = Settings(root, download)
    result = write_out(checkpoint, out, data, settings, int8=int8, network=network)
    before = "before quantisation, " if int8 else ""
    print(
        f"{result['file']}: opset {result['opset']}\n{before}on {result['images']} test "
        f"images, scores differ from torch's by {result['difference']:.0e} of the largest"
    )
    if int8:
        print(
            f"in INT8, {result['agree']:.2%} of {result['tests']} test images are of the "
            "same class as in torch"
        )


@app.command("compress")
def compressed(
    checkpoint: Checkpoint,
    method: Annotated[Method, Option(help="What is done to the network.")],
    out: Annotated[
        Path | None,
        Option(help="The file; else METHOD.safetensors beside the checkpoint."),
    ] = None,
    sparsity: Annotated[
        float,
        Option(
            help="The share of weights that prune sets to zero, or of filters that "
            "structured removes."
        ),
    ] = 0.5,
    data: Tests = "",
    root: Root = Path("data"),
    download: Download = False,
    network: Own = "",
) -> None:
    """Make a trained network smaller, without training it again.

    The file is tested beside the original, on the test images. Page
    lab/evaluate-and-export.
    """
    result = make_smaller(
        checkpoint,
        method,
        out,
        data,
        Settings(root, download),
        sparsity=sparsity,
        network=network,
    )
    before, after = result["before"], result["after"]
    print(
        f"{result['file']}: {after['bytes'] / 1000:,.1f} kB, "
        f"{before['bytes'] / 1000:,.1f} before\non {result['images']} test images: "
        f"accuracy {after['accuracy']:.2%}, {before['accuracy']:.2%} before"
    )


@app.command("list")
def listed() -> None:
    """Tell which networks there are.

    Pages foundations/index, modern/index; as a table: networks.
    """
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
