"""Commands of cnn-lab in processes that start quickly."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest


class Forks:
    """What `forked.py` does, a request at a time.

    Each takes a folder, commands such as ["train", "LeNet5"] that one process carries out
    in it one after the other, and what else `carry_out` of `forked.py` reads: processes,
    float64, method, keep, kill. What they print is in the files `out` and `err`.
    """

    def __init__(self) -> None:
        self.server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forked.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.folder, self.pids = Path(), list[int]()

    def begin(self, folder: Path, *commands: list[str], **how: Any) -> list[int]:
        """The numbers of the processes, by rank; `ended` is to follow."""
        asked = {"folder": str(folder), "commands": commands, **how}
        self.folder, self.pids = folder, self._answer(json.dumps(asked), 300)
        return self.pids

    def ended(self, seconds: float = 900) -> list[int]:
        """The exit codes; -9 of a process that was killed."""
        return self._answer("", seconds)

    def done(self, folder: Path, *commands: list[str], **how: Any) -> str:
        """What is printed by commands that end well."""
        self.begin(folder, *commands, **how)
        assert not any(self.ended()), self.told("err")
        return self.told("out")

    def told(self, name: str) -> str:
        return (self.folder / name).read_text()

    def _answer(self, line: str, seconds: float) -> list[int]:
        assert self.server.stdin is not None and self.server.stdout is not None
        print(line, file=self.server.stdin)
        if not select.select([self.server.stdout], [], [], seconds)[0]:
            for pid in self.pids:
                os.kill(pid, signal.SIGKILL)
            pytest.fail(f"no end after {seconds} s: {self.told('err')}")
        answer: list[int] = json.loads(self.server.stdout.readline())
        return answer

    def close(self) -> None:
        with self.server:  # closes what it reads, and waits
            assert self.server.stdin is not None
            self.server.stdin.close()


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    with closing(Forks()) as started:
        yield started
