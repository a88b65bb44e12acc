"""How a run ends before its last epoch: refused, told to stop, out of memory, left alone."""

import re
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import accelerate
import torch

from .fit import STOP_SIGNALS

# Seen here where a process that loads images ends while it hands one over.
CONNECTION_LOST = (ConnectionResetError, ConnectionRefusedError, EOFError)


class Refused(Exception):
    """What is asked for cannot be done; the message says why."""


class Stopped(Exception):
    """The run was told to stop by a signal, and was saved before."""

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


class StopRequest:
    """Whether any of the processes was told to stop, and by which signal this one."""

    def __init__(self, accelerator: accelerate.Accelerator) -> None:
        self.accelerator, self.number = accelerator, 0

    def received(self) -> bool:
        if self.accelerator.num_processes == 1:
            return self.number > 0
        flag = torch.tensor(float(self.number), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag) > 0)


@contextmanager
def stop_signals(accelerator: accelerate.Accelerator) -> Iterator[StopRequest]:
    """Signals to stop wait for the end of the step; a second of its kind does not.

    One that is ignored stays so: nohup, or a shell's background.
    """
    request = StopRequest(accelerator)
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    handlers = {s: signal.getsignal(s) for s in STOP_SIGNALS}
    handlers = {
        s: handler for s, handler in handlers.items() if handler != signal.SIG_IGN
    }

    def note(number: int, frame: object) -> None:
        request.number = number
        signal.signal(number, handlers[signal.Signals(number)])

    for number in handlers:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Keep a folder from other runs until the process ends, however it ends.

    The processes that load images have no part in a lock of this kind.
    """
    import fcntl  # not on Windows

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise Refused(f"another process is at work in {folder}") from None
        except OSError:
            pass  # a file system without locks
        yield


def out_of_memory(error: Exception) -> bool:
    on_cpu = "can't allocate memory" in str(error)
    return on_cpu or isinstance(error, (MemoryError, torch.OutOfMemoryError))


def process_lost(error: Exception, processes: int) -> bool:
    """Whether this is how the loss of another process shows itself."""
    if "DataLoader worker" in str(error) or isinstance(error, CONNECTION_LOST):
        return True
    if processes == 1:
        return False
    words = ("connection", "gloo", "nccl", "peer", "timed out", "socket")
    return any(word in str(error).lower() for word in words)


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def short_reason(error: Exception) -> str:
    """Without the line of the library's source, and its guesses."""
    return re.sub(r"^\[[^]]*\] ", "", one_line(error)).split(". ")[0]


def resume_hint(folder: Path, command: str = "train") -> str:
    return f"go on with: cnn-lab {command} --resume {shlex.quote(str(folder))}"
