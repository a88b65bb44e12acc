"""A program that carries out commands of cnn-lab in forked processes.

To import torch and the lab takes longer than a small run: that is done once, here, and a
run is a process forked from this one. The `forks` fixture starts it and talks to it.
"""

import atexit
import json
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any


def serve() -> None:
    """For a line of JSON on standard input: processes started; for the next: ended."""
    import torch
    import torchmetrics.functional.classification  # noqa: F401

    from cnn_lab import cli, compare, curves, data, networks  # noqa: F401

    assert torch.get_num_threads() == 1, "forked processes have no threads of this one"
    data.digits("test")  # imports what a run would
    networks.outline("LeNet5", 10)
    # Plots take longer than these runs; other tests look at them.
    curves.draw = compare.plot = lambda *given: None  # type: ignore[assignment]
    for line in sys.stdin:
        asked = json.loads(line)
        pids = started(asked, asked.get("processes", 1))
        print(json.dumps(pids), flush=True)
        sys.stdin.readline()  # not before: no other process gets the number of one of these
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        print(json.dumps(codes), flush=True)


def started(asked: dict[str, Any], processes: int) -> list[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("out", "err"):
        Path(asked["folder"], name).write_text("")
    pids = []
    for rank in range(processes):
        if (pid := os.fork()) == 0:
            if processes > 1:  # as torchrun does
                os.environ |= {
                    **{"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    **{"WORLD_SIZE": str(processes), "MASTER_PORT": str(port)},
                    **{"MASTER_ADDR": "127.0.0.1", "LOCAL_WORLD_SIZE": str(processes)},
                }
            carry_out(asked)
        pids.append(pid)
    return pids


def carry_out(asked: dict[str, Any]) -> None:
    """The commands, one after the other, until one fails; then this process ends."""
    code = 1
    try:
        os.chdir(asked["folder"])
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_APPEND), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if asked.get("float64"):
            import torch

            torch.set_default_dtype(torch.float64)
        if "method" in asked:
            start_by(asked["method"])
        if "keep" in asked:
            keep_versions(*asked["keep"])
        if "kill" in asked:
            kill_in_writing(*asked["kill"])
        for command in asked["commands"]:
            code = run(command)
            if code:
                break
    except BaseException:
        sys.excepthook(*sys.exc_info())
        raise
    finally:
        atexit._run_exitfuncs()  # as at the end of any process: multiprocessing's
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(command: list[str]) -> int:
    from cnn_lab.cli import main

    sys.argv = ["cnn-lab", *command]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def start_by(method: str) -> None:
    """Start processes by that method, and write down how each was started."""
    import multiprocessing
    from multiprocessing.process import BaseProcess

    multiprocessing.set_start_method(method, force=True)
    if method == "forkserver":  # imports what a process needs once
        multiprocessing.set_forkserver_preload(["cnn_lab.photos", "cnn_lab.own"])
    start = BaseProcess.start

    def noted(process: Any) -> None:
        start(process)
        with open("started", "a") as file:
            print(process._popen.method, file=file)

    BaseProcess.start = noted  # type: ignore[method-assign]


def keep_versions(name: str, folder: str) -> None:
    """A copy of each file of that name, as soon as it is there: 000, 001, ..."""
    Path(folder).mkdir()
    replace, count = os.replace, 0

    def kept(part: Any, path: Any) -> None:
        nonlocal count
        replace(part, path)
        if Path(path).name == name:
            shutil.copy(path, Path(folder) / f"{count:03}")
            count += 1

    os.replace = kept


def kill_in_writing(name: str, place: str, number: int) -> None:
    """Let this process kill itself in the `number`-th writing of files of that name."""
    from cnn_lab import checkpoint

    write, fsync, replace = checkpoint.write, os.fsync, os.replace
    written, synced, inside = 0, 0, False

    def at(here: str) -> None:
        if inside and here == place:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(path: Path, content: bytes) -> None:
        nonlocal written, synced, inside
        written += path.name == name
        synced, inside = 0, path.name == name and written == number
        at("before the file")
        write(path, content)

    def synced_at(file: int) -> None:
        nonlocal synced
        synced += 1
        if synced == 1:
            if inside and place == "half of the file written":
                os.ftruncate(file, os.fstat(file).st_size // 2)
            at("half of the file written")
            at("before the file's fsync")
        else:
            at("before the folder's fsync")
        fsync(file)

    def renamed(part: Any, path: Any) -> None:
        at("before the rename")
        replace(part, path)
        at("after the rename")

    checkpoint.write, os.fsync, os.replace = counted, synced_at, renamed


if __name__ == "__main__":
    serve()
