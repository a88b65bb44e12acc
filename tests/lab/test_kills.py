"""A run that is killed or stopped ends, once it goes on, as if nothing had happened.

Run as a program, this file is what starts the runs of the test below: it imports torch
once and forks a process for each.
"""

import json
import os
import pty
import random
import re
import select
import signal
import subprocess
import sys
import termios
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnn_lab.cli
from cnn_lab import checkpoint
from cnn_lab.curves import NAMES
from cnn_lab.recipe import Recipe, Settings
from cnn_lab.saved import BEST, CONFIG, LAST, PHOTOS, RESULT
from cnn_lab.show import Silent
from cnn_lab.stop import Refused, Stopped
from cnn_lab.train import train

FILES = (LAST, BEST, PHOTOS)  # the rest tells of times
TINY = "ResNet(BasicBlock, (1,), width=4, small_images=True)"
DROPS = "VisionTransformer(8, 1, 2, 16, 32, image_size=32, dropout=0.2)"
SMALL_DROPS = "VisionTransformer(4, 1, 2, 8, 16, image_size=8, dropout=0.2)"
PLACES = (
    "before the file",
    "half of the file written",
    "before the file's fsync",
    "before the rename",
    "after the rename",
    "before the folder's fsync",
)
ALL = {
    "everything with a state": [
        *(DROPS, "--epochs", "3", "--batch-size", "128", "--save-every", "3"),
        *("--augment", "basic-augmentation,randaugment", "--mixup", "0.2"),
        *("--weight-ema", "0.9", "--schedule", "one-cycle"),
    ],
    "momentum and a warm-up": [
        *(TINY, "--size", "8", "--epochs", "6", "--save-every", "4", "--cutmix", "1"),
        *(
            "--optimizer",
            "sgd-momentum",
            "--learning-rate",
            "0.1",
            "--batch-size",
            "50",
        ),
        *("--schedule", "cosine-annealing", "--warmup", "1", "--weight-ema", "0.5"),
    ],
    "photos, with workers": [
        *(TINY, "--data", "folder:photos", "--size", "16", "--epochs", "4"),
        *("--augment", "basic-augmentation,trivialaugment", "--batch-size", "5"),
        *("--workers", "2", "--save-every", "3", "--optimizer", "radam"),
        *("--validate", "0.2"),
    ],
}


def photos(folder: Path, classes: int = 3, each: int = 8, side: int = 24) -> Path:
    draw = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class-{label}").mkdir(parents=True)
        for n in range(each):
            pixels = draw.integers(0, 256, (side, side, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class-{label}" / f"{n}.png")
    return folder


def carried_out(network: str, folder: Path, workers: int = 0, **options: Any) -> bytes:
    """The checkpoint that a run ends with."""
    train(Recipe(network, **options), folder, Settings(workers=workers, save_every=3))
    return (folder / LAST).read_bytes()


# --- the same bytes ------------------------------------------------------------------


class StopsAfter(Silent):
    """What Ctrl-C does, after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def step(self, step: object) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


STATEFUL: dict[str, Any] = {
    "size": 8,
    "epochs": 2,
    "batch_size": 300,
    "mixup": 0.2,
    "augment": "basic-augmentation,cutout",
    "weight_ema": 0.9,
}


@pytest.mark.parametrize(
    ("network", "steps"), [(TINY, 1), (TINY, 4), (SMALL_DROPS, 3), (SMALL_DROPS, 6)]
)
def test_a_run_stopped_after_any_step_ends_with_the_same_bytes(
    network: str, steps: int, tmp_path: Path
) -> None:
    recipe = Recipe(network, **STATEFUL)  # 4 steps an epoch
    whole = carried_out(network, tmp_path / "whole", **STATEFUL)
    with pytest.raises(Stopped, match=rf"after {steps} steps.*--resume") as stopped:
        train(recipe, tmp_path / "run", show=StopsAfter(steps))
    assert stopped.value.number == signal.SIGINT
    assert checkpoint.load(tmp_path / "run" / LAST)["done"] == steps
    assert not (tmp_path / "run" / RESULT).exists()
    result = train(recipe, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / LAST).read_bytes() == whole
    assert result["curve"] == train(recipe, tmp_path / "whole", resume=True)["curve"]


def test_a_signal_in_the_last_step_lets_the_run_end(tmp_path: Path) -> None:
    train(Recipe(TINY, **STATEFUL), tmp_path / "run", show=StopsAfter(8))
    assert (tmp_path / "run" / RESULT).exists()


def test_the_seed_alone_decides(tmp_path: Path) -> None:
    first, again = (carried_out(TINY, tmp_path / n, **STATEFUL) for n in "ab")
    other = carried_out(TINY, tmp_path / "other", seed=1, **STATEFUL)
    assert first == again
    weights = [checkpoint.load(tmp_path / n / LAST)["model"] for n in ("a", "other")]
    assert not weights[0]["fc.weight"].equal(weights[1]["fc.weight"])
    assert other != first


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3:UserWarning")
def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "data": f"folder:{photos(tmp_path / 'photos')}",
        "size": 16,
        "epochs": 2,
        "batch_size": 5,
        "augment": "basic-augmentation,trivialaugment,cutout",
    }
    found = {
        n: carried_out(TINY, tmp_path / f"run-{n}", workers=n, **options)
        for n in (0, 1, 3)
    }
    assert found[0] == found[1] == found[3]


HOLD = """
import fcntl, sys
with open(sys.argv[1], "w") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    carried_out(TINY, tmp_path, **STATEFUL)
    (tmp_path / RESULT).unlink()
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with other:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(Refused, match=f"another process is at work in {tmp_path}"):
            train(Recipe(TINY, **STATEFUL), tmp_path, resume=True)
    train(Recipe(TINY, **STATEFUL), tmp_path, resume=True)


# --- SIGKILL -------------------------------------------------------------------------


@dataclass
class Kills:
    """Runs that are killed until they end, and how often that was."""

    seed: int
    folder: Path
    survived: int = 0
    inside: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw = random.Random(self.seed)
        self.server = subprocess.Popen(
            [sys.executable, __file__],
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, name: str, arguments: list[str], **kill: Any) -> tuple[int, float]:
        """The exit code, and the seconds from the fork on."""
        assert self.server.stdin is not None and self.server.stdout is not None
        config = self.folder / name / CONFIG
        go_on = ["--resume", name] if config.exists() else [*arguments, "--out", name]
        asked = {"arguments": ["train", *go_on], "log": f"{name}.log", **kill}
        (self.folder / f"{name}.log").touch()  # a run may be killed before it opens it
        print(json.dumps(asked), file=self.server.stdin, flush=True)
        code, seconds = json.loads(self.server.stdout.readline())
        log = (self.folder / f"{name}.log").read_text()
        assert code in (0, -signal.SIGKILL), log
        return code, seconds

    def chain(
        self,
        kind: str,
        whole: dict[str, bytes],
        seconds: float,
        timed: int,
        inside: list[str],
    ) -> None:
        """Kill runs of a kind that often; each goes on, is killed again, and ends."""
        wanted = [*("time",) * timed, *inside]
        self.draw.shuffle(wanted)
        run, before = 0, 0
        while wanted:
            run += 1
            name, arguments = f"{kind}-{run}", ALL[kind]
            for _ in range(4):
                if not wanted:
                    break
                place = wanted[-1]
                if place == "time":
                    kill: dict[str, Any] = {"after": self.draw.uniform(0, seconds)}
                else:
                    kill = {"place": place, "number": self.draw.randint(1, 5)}
                code, _ = self.ask(name, arguments, **kill)
                if code == 0:
                    break  # it had ended: that one is drawn again
                wanted.pop()
                before += 1
                if place != "time":
                    self.inside[place] = self.inside.get(place, 0) + 1
            code, _ = self.ask(name, arguments)
            assert code == 0
            ended = self.folder / name
            for file, content in whole.items():
                told = f"{file} of {name}, seed {self.seed}"
                assert (ended / file).read_bytes() == content, told
            left = {p.name for p in ended.iterdir()}
            assert left == {".lock", CONFIG, RESULT, *NAMES, *whole}
        self.survived += before

    def close(self) -> None:
        assert self.server.stdin is not None
        self.server.stdin.close()
        self.server.wait()
        assert self.server.stdout is not None
        self.server.stdout.close()


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(10**6)))
    photos(tmp_path / "photos")
    kills = Kills(seed, tmp_path)
    with closing(kills):
        for kind, timed, inside in (
            ("everything with a state", 3, list(PLACES)),
            ("momentum and a warm-up", 2, list(PLACES[:3])),
            ("photos, with workers", 2, list(PLACES[3:])),
        ):
            code, seconds = kills.ask(f"{kind}-whole", ALL[kind])
            assert code == 0
            kept = (tmp_path / f"{kind}-whole").iterdir()
            whole = {p.name: p.read_bytes() for p in kept if p.name in FILES}
            kills.chain(kind, whole, seconds, timed, inside)
    inside = sum(kills.inside.values())
    with capsys.disabled():
        print(
            f"\n{kills.survived} kills survived, {inside} of them in the writing of "
            f"a checkpoint; KILL_SEED={seed}"
        )
    assert kills.survived >= 19 and inside >= 12


@pytest.mark.slow
def test_the_command_itself_survives_kills(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("KILL_SEED", random.SystemRandom().randrange(10**6)))
    draw, arguments = random.Random(seed), ALL["everything with a state"]
    assert command(tmp_path, "train", *arguments, "--out", "whole").returncode == 0
    whole = (tmp_path / "whole" / LAST).read_bytes()
    seconds = json.loads((tmp_path / "whole" / RESULT).read_text())["seconds"]
    killed, run = 0, 0
    while killed < 2:
        run += 1
        folder = tmp_path / f"run-{run}"
        for _ in range(2):
            first = not (folder / CONFIG).exists()
            more = [*arguments, "--out"] if first else ["--resume"]
            with started(tmp_path, "train", *more, folder.name) as process:
                _wait_until_it_trains(folder, process)
                time.sleep(draw.uniform(0, seconds / 4))
                process.kill()
            killed += process.returncode == -signal.SIGKILL
        assert command(tmp_path, "train", "--resume", folder.name).returncode == 0
        assert (folder / LAST).read_bytes() == whole
    with capsys.disabled():
        print(f"\n{killed} kills of the command survived; KILL_SEED={seed}")


# --- the real command ----------------------------------------------------------------


def started(folder: Path, *arguments: str, **how: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cnn_lab", *arguments],
        cwd=folder,
        stdout=how.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_interruptible,
        **how,
    )


def _interruptible() -> None:
    """A shell's background ignores SIGINT, and so would all that is started there."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    with started(folder, *arguments) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def _wait_until_it_trains(folder: Path, process: "subprocess.Popen[str]") -> None:
    """A run takes the lock of its folder when it is ready to begin."""
    begun, lock = time.time(), folder / ".lock"
    while not lock.exists() or lock.stat().st_mtime < begun:
        assert process.poll() is None, process.communicate()
        assert time.time() < begun + 120, "waited in vain"
        time.sleep(0.01)


LONG = [TINY, "--size", "16", "--epochs", "500", "--out", "run"]
STOPPED = re.compile(
    r"cnn-lab: stopped after \d+ steps, all of which are saved; "
    r"go on with: cnn-lab train --resume run\n"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "more"),
    [
        (signal.SIGINT, 130, ["--workers", "0"]),
        (signal.SIGINT, 130, ["--workers", "2"]),
        (signal.SIGTERM, 143, ["--workers", "2"]),
        (signal.SIGHUP, 129, ["--workers", "0"]),
    ],
)
def test_a_signal_saves_and_says_how_to_go_on(
    number: int, code: int, more: list[str], tmp_path: Path
) -> None:
    """It goes to the whole group, as from a terminal or a batch system."""
    with started(tmp_path, "train", *LONG, *more, start_new_session=True) as process:
        _wait_until_it_trains(tmp_path / "run", process)
        time.sleep(0.5)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    assert STOPPED.fullmatch(errors), errors
    done = checkpoint.load(tmp_path / "run" / LAST)["done"]
    assert f"after {done} steps" in errors
    assert not (tmp_path / "run" / RESULT).exists()


@pytest.mark.slow
def test_a_second_signal_ends_a_run_at_once(tmp_path: Path) -> None:
    """Here its steps are never over: the loss waits for an hour."""
    (tmp_path / "slow.py").write_text(
        "import sys, time, cnn_lab.train, cnn_lab.cli\n"
        "def make_loss(recipe):\n"
        "    return lambda *given: time.sleep(3600)\n"
        "cnn_lab.train.make_loss = make_loss\n"
        "cnn_lab.cli.main()\n"
    )
    with subprocess.Popen(
        [sys.executable, "slow.py", "train", *LONG],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_interruptible,
    ) as process:
        _wait_until_it_trains(tmp_path / "run", process)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_terminal_shows_a_bar_and_is_left_as_it_was(tmp_path: Path) -> None:
    ours, its = pty.openpty()
    before = termios.tcgetattr(its)
    with started(tmp_path, "train", *LONG, stdout=its, start_new_session=True) as run:
        shown = b""
        while shown.count(b"epoch 2/500") < 3:  # the bar is drawn again and again
            shown += os.read(ours, 4096)
        run.send_signal(signal.SIGINT)
        while select.select([ours], [], [], 3)[0] or run.poll() is None:
            shown += os.read(ours, 4096) if select.select([ours], [], [], 0)[0] else b""
        _, errors = run.communicate(timeout=60)
    assert run.returncode == 130 and STOPPED.fullmatch(errors)
    for part in ("loss", "accuracy", "images/s", "━", "/9500"):
        assert part.encode() in shown, part
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l")  # the cursor is back
    assert termios.tcgetattr(its) == before
    os.close(its)
    os.close(ours)


def serve() -> None:
    """For each line of JSON: a run in a process of its own, killed as the line says."""
    for line in sys.stdin:
        asked = json.loads(line)
        begun = time.monotonic()
        if (child := os.fork()) == 0:
            _run(asked)
        status = 0
        if (after := asked.get("after")) is not None:
            while time.monotonic() < begun + after and not status:
                ended, found = os.waitpid(child, os.WNOHANG)
                if ended:
                    status = found + 1  # even of an exit code of 0
                time.sleep(0.002)
            if not status:
                os.kill(child, signal.SIGKILL)
        found = status - 1 if status else os.waitpid(child, 0)[1]
        code = os.waitstatus_to_exitcode(found)
        print(json.dumps([code, time.monotonic() - begun]), flush=True)


def _run(asked: dict[str, Any]) -> None:
    with Path(asked["log"]).open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    if "place" in asked:
        _kill_in_checkpoint(asked["place"], asked["number"])
    sys.argv = ["cnn-lab", *asked["arguments"]]
    code = 1
    try:
        cnn_lab.cli.main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stdout.flush()
        os._exit(code)


def _kill_in_checkpoint(place: str, number: int) -> None:
    """Let the process kill itself in the writing of its `number`-th checkpoint."""
    write, fsync, replace = checkpoint.write, os.fsync, os.replace
    written, synced, now = 0, 0, False

    def at(here: str) -> None:
        if now and here == place:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(path: Path, content: bytes) -> None:
        nonlocal written, synced, now
        written += path.name == LAST
        synced, now = 0, path.name == LAST and written == number
        at("before the file")
        write(path, content)

    def synced_at(file: int) -> None:
        nonlocal synced
        synced += 1
        if synced == 1:
            if now and place == "half of the file written":
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
