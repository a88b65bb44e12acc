"""Files of weights that other programs wrote: tensors by the names of a network.

No code of a file is run: a pickled one is read with `weights_only=True`, and refused
where that does not do.
"""

import re
import shlex
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from .checkpoint import KIND, NotACheckpoint

PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar")  # what torch.save's files are called
# Where programs keep the weights beside an optimizer; the mean of the weights first,
# which is what was tested.
WRAPPINGS = ("state_dict_ema", "model_ema", "model_state_dict", "state_dict", "model")
# Put before every name by DataParallel, torch.compile, and a module that holds a model.
PREFIXES = ("module.", "_orig_mod.", "model.")
CONVERT = (
    "import sys, torch; "
    "s = lambda x: x.state_dict() if hasattr(x, 'state_dict') else x; "
    "x = s(torch.load(sys.argv[1], map_location='cpu', weights_only=False)); "
    f"torch.save({{k: s(v) for k, v in x.items() if k in {WRAPPINGS} "
    "or torch.is_tensor(v)}, sys.argv[2])"
)


def is_foreign(path: Path) -> bool:
    """Whether that is a file of weights, and none of `cnn-lab`'s checkpoints."""
    if path.suffix.lower() in PICKLED:
        return True
    try:
        with safe_open(path, "pt") as file:
            return KIND not in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read(path: Path, names: Iterable[str]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file for a network whose tensors have these names.

    What is wrapped (`WRAPPINGS`) is unwrapped, and prefixes that the network's own names
    do not have (`PREFIXES`) are taken off.

    Returns the tensors by name, and what was done to get them, in words.
    Raises: NotACheckpoint for a file that is missing, damaged or holds no tensors; for a
    pickled one that holds more, with the command that converts it.
    """
    notes: list[str] = []
    pickled = path.suffix.lower() in PICKLED
    content = _pickled(path) if pickled else load_file(path)
    while isinstance(content, Mapping):
        inside = next(
            (w for w in WRAPPINGS if isinstance(content.get(w), Mapping)), None
        )
        if inside is None:
            break
        others = [other for other in WRAPPINGS if other in content and other != inside]
        notes.append(
            f"taken from {inside}" + (f", not {', '.join(others)}" if others else "")
        )
        content = content[inside]
    if not isinstance(content, Mapping):
        raise NotACheckpoint(
            f"{path} holds a {type(content).__name__}, expected tensors by name"
        )
    state = {str(n): value for n, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise NotACheckpoint(
            f"{path} has no tensor; it has {few(map(str, content)) or 'nothing'}"
        )
    if rest := [str(name) for name in content if str(name) not in state]:
        notes.append(f"left out {few(rest)}")
    return _without_prefixes(state, set(names), notes), notes


def _pickled(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of protocols and TorchScript
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise NotACheckpoint(f"there is no file {path}") from None
    except (IsADirectoryError, PermissionError) as error:
        raise NotACheckpoint(f"{path} cannot be read: {error.strerror}") from None
    except (UnpicklingError, RuntimeError, EOFError, OSError, LookupError) as error:
        more = re.search(r"GLOBAL (\S+)", str(error))
        script = "TorchScript" in str(error)
        if not more and not script:
            raise NotACheckpoint(
                f"{path} is damaged, or no file of torch.save"
            ) from None
        holds = more[1] if more else "TorchScript"
        places = (shlex.quote(str(p)) for p in (path, path.with_suffix(".tensors.pth")))
        raise NotACheckpoint(
            f"{path} holds more than tensors ({holds}), and reading that may run any "
            "code; convert a file that you trust: "
            f"python -c {shlex.quote(CONVERT)} {' '.join(places)}"
        ) from None


def _without_prefixes(
    state: dict[str, Tensor], names: set[str], notes: list[str]
) -> dict[str, Tensor]:
    while prefix := next((p for p in PREFIXES if _can_go(p, state, names)), None):
        if prefix == "module." and state.pop("n_averaged", None) is not None:
            notes.append("left out n_averaged")  # AveragedModel's count of steps
        cut = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
        if len(cut) < len(state):
            break  # two of one name
        state = cut
        notes.append(f"{prefix} taken off the names")
    return state


def _can_go(prefix: str, state: Mapping[str, Tensor], names: set[str]) -> bool:
    """Whether tensors have a prefix that none of the network's own has."""
    has_prefix = any(name.startswith(prefix) for name in state)
    return has_prefix and not any(name.startswith(prefix) for name in names)


def few(names: Iterable[str], count: int = 3) -> str:
    """The first names, and how many there are more."""
    all_names = list(names)
    more = f" and {len(all_names) - count} more" if len(all_names) > count else ""
    return ", ".join(all_names[:count]) + more
