"""Runs every fence as other processors would: what a page prints is what a reader's machine prints.

A processor without AVX2, with another library for matrices or with more cores adds the terms of a sum in another
order. Three ways to do so on one machine, each in a process of its own, since the libraries read their environment once:

    python -m cnn_site.processors [--update-evidence] [--only NAME] [page ...]

exits with 1 where a fence prints something else than its page shows.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import ROOT
from .fences import page_blocks, runnable
from .pages import written

if TYPE_CHECKING:
    from torch.utils._python_dispatch import TorchDispatchMode

RECORD = ROOT / "docs" / "evidence" / "processors.json"
# Minus: the errors of other orders go the other way as often. Sixteen: a value that another processor's own errors,
# which are as large as ours, could push over the edge of its last digit is seen here with a margin.
TIMES = -16


@dataclass(frozen=True)
class Processor:
    """Another processor: what stands for it, as a reader is told, and how it is asked for."""

    name: str
    stands_for: str
    environment: dict[str, str]
    options: tuple[str, ...] = ()


PROCESSORS = (
    Processor(
        "sse",
        "x86 without AVX, MKL as on a processor it does not know, four threads",
        {
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",  # Intel's processors obey it,
            "MKL_CBWR": "COMPATIBLE",  # AMD's this
            "OMP_NUM_THREADS": "4",
        },
    ),
    Processor(
        "avx2",
        "x86 with AVX2 and no AVX-512, two threads",
        {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
            "OMP_NUM_THREADS": "2",
        },
    ),
    Processor(
        "unknown",
        "any other (AVX-512, ARM): no oneDNN, and every float32 result that is rounded, "
        f"off by {-TIMES} times its rounding error the other way",
        {"OMP_NUM_THREADS": "1"},
        ("--other-rounding",),
    ),
)

FIGURES = "tests/site/test_figures.py"  # some draw what torch computed
# Threads that wait spin, which on fewer cores than threads is all they do.
WAITING = {"OMP_WAIT_POLICY": "PASSIVE"}


# --- a processor that cannot be had ----------------------------------------------------------------------------------


def other_rounding(times: float = TIMES) -> "TorchDispatchMode":
    """A context in which sums, products and transcendental functions of float32 have `times` their rounding error.

    Each is computed in float64 as well: e + times (r - e) with r as computed and e exact. Where nothing is rounded (a
    sum of whole numbers, a product with zero) nothing changes, and the same inputs give the same result: what holds
    exactly on every processor holds here. Gradients are made by operations too and get theirs. Normal draws, which
    are made from logarithms and cosines, differ by as much.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_map

    aten = torch.ops.aten
    rounded = {
        *(aten.mm, aten.addmm, aten.bmm, aten.baddbmm, aten.dot, aten.mv, aten.addmv),
        *(aten.convolution, aten.convolution_backward, aten.sum, aten.mean, aten.var),
        *(aten.std, aten.var_mean, aten.linalg_vector_norm, aten.cumsum),
        *(aten.native_batch_norm, aten.native_batch_norm_backward),
        *(aten.native_layer_norm, aten.native_layer_norm_backward),
        *(aten.native_group_norm, aten.native_group_norm_backward),
        *(aten.exp, aten.log, aten.log1p, aten.expm1, aten.pow, aten.sin, aten.cos),
        *(aten.tanh, aten.sigmoid, aten.erf, aten.gelu, aten.silu, aten.softplus),
        *(aten._softmax, aten._softmax_backward_data, aten.logsumexp),
        *(aten._log_softmax, aten._log_softmax_backward_data),
        *(aten.avg_pool2d, aten.avg_pool2d_backward, aten._adaptive_avg_pool2d),
        *(aten.upsample_bilinear2d, aten._upsample_bilinear2d_aa),
    }
    drawn = {aten.normal_, aten.randn}
    one_rounding = torch.finfo(torch.float32).eps / 2

    def single(value: Any) -> bool:  # no subclass: tracers have values of their own
        plain = type(value) in (torch.Tensor, torch.nn.Parameter)
        return plain and value.dtype == torch.float32 and value.device.type == "cpu"

    def double(value: Any) -> Any:
        return value.double() if single(value) else value

    def off(result: Any, exact: Any) -> Any:
        if not single(result):
            return result
        moved = exact + times * (result.double() - exact)
        return torch.where(moved.isfinite(), moved, result.double()).float()

    class OtherRounding(TorchDispatchMode):
        def __torch_dispatch__(
            self,
            func: Any,
            types: Any,
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:
            kwargs, name = kwargs or {}, func.overloadpacket
            if name in rounded and any(map(single, [*args, *kwargs.values()])):
                exact = func(*tree_map(double, args), **tree_map(double, kwargs))
                result = func(*args, **kwargs)
                if isinstance(result, tuple):
                    return tuple(map(off, result, exact))
                return off(result, exact)
            result = func(*args, **kwargs)
            if name in drawn and single(result):
                steps = torch.arange(result.numel(), dtype=torch.float64).cos()
                result.mul_(1 + times * one_rounding * steps.view_as(result))
            return result

    return OtherRounding()


# --- the runs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What happened on one processor: fences that ran, tests beside them, how many of both failed, pytest's words."""

    processor: Processor
    fences: int
    tests: int
    differ: int
    seconds: float
    output: str


def run(processor: Processor, pages: Sequence[str]) -> Run:
    """Runs the fences of `pages`, and tests among them, in a process of their own, as that processor would.

    Raises: RuntimeError where nothing ran, or pytest broke off.
    """
    with tempfile.TemporaryDirectory() as folder:
        junit = Path(folder) / "junit.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--rootdir={ROOT}"]
        command += [f"-c{ROOT / 'pyproject.toml'}", "-pcnn_site.runner"]
        command += ["-pno:cacheprovider", f"--basetemp={folder}/tmp"]
        command += [f"--junitxml={junit}", *processor.options, *pages]
        start = time.perf_counter()
        process = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **WAITING, **processor.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
        output = process.stdout + process.stderr
        if process.returncode not in (0, 1):
            raise RuntimeError(
                f"{processor.name}: pytest exits with {process.returncode}:\n{output}"
            )
        suite = ET.parse(junit).getroot()[0]
    names = [case.get("name", "") for case in suite.iter("testcase")]
    fences = sum(name.startswith("[CodeFence") for name in names)
    differ = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    return Run(processor, fences, len(names) - fences, differ, seconds, output)


def together(parts: Sequence[Run]) -> Run:
    """The runs of parts of the pages, as one."""
    return Run(
        parts[0].processor,
        sum(r.fences for r in parts),
        sum(r.tests for r in parts),
        sum(r.differ for r in parts),
        sum(r.seconds for r in parts),
        "\n".join(r.output for r in parts if r.differ),
    )


def write_record(runs: Sequence[Run], path: Path = RECORD) -> None:
    """Writes what ran as what, unless the record says so already: date and versions alone are no change."""
    from cnn_lab.record import environment

    rows = [
        {
            "name": r.processor.name,
            "stands_for": r.processor.stands_for,
            "environment": r.processor.environment,
            "options": list(r.processor.options),
        }
        for r in runs
    ]
    content = {"schema": 1, "processors": rows, "pages": fences()}
    now = environment()
    made = {k: now[k] for k in ("date", "processor", "python", "torch", "torchvision")}
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        if {k: v for k, v in old.items() if k != "made"} == content:
            return
    text = json.dumps({"made": made, **content}, indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def fences() -> dict[str, list[str]]:
    """The hashes of the fences that are run, by page, as the pages are now; drafts are left out."""
    pages = [*written(), ROOT / "README.md"]
    hashes = {p: [b.hash for b in runnable(page_blocks(p))] for p in pages}
    return {p.relative_to(ROOT).as_posix(): h for p, h in hashes.items() if h}


def main(arguments: Sequence[str] | None = None) -> int:
    names = [p.name for p in PROCESSORS]
    parser = argparse.ArgumentParser(
        prog="python -m cnn_site.processors", description=__doc__
    )
    parser.add_argument(
        "pages", nargs="*", help=f"default: docs, README.md and {FIGURES}"
    )
    parser.add_argument("--only", choices=names, action="append", help="one processor")
    parser.add_argument(
        "--update-evidence",
        action="store_true",
        help=f"write {RECORD.relative_to(ROOT)}",
    )
    options = parser.parse_args(arguments)
    chosen = [p for p in PROCESSORS if p.name in (options.only or names)]
    if options.update_evidence and (options.pages or options.only):
        parser.error("--update-evidence records all pages on all processors: name none")
    # In parts, and the longest first, so that no core waits for the last one.
    every = [*fences(), FIGURES]
    parts = [options.pages] if options.pages else [every[n::4] for n in range(4)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = [pool.submit(run, p, part) for p in reversed(chosen) for part in parts]
    results = [future.result() for future in made]
    runs = [together([r for r in results if r.processor is p]) for p in chosen]
    for r in runs:
        if r.differ:
            print(f"\n===== as {r.processor.name}: {r.processor.stands_for} =====")
            print(r.output)
    for r in runs:
        ran = f"{r.fences:4} fences, {r.tests} tests, {r.differ} differ"
        print(f"{r.processor.name:10} {ran}, {r.seconds:4.0f} s")
    expected = sum(map(len, fences().values()))
    if not options.pages and any(r.fences != expected for r in runs):
        raise RuntimeError(f"the pages have {expected} fences that are run")
    if any(r.differ for r in runs):
        return 1
    if options.update_evidence:
        write_record(runs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
