"""Every module of every proof file against its own float64 result on the CPU.

By default the second device is the CPU itself in float32, which checks the cases. With `--device cuda` each runs there in
float64 and float32, TF32 off, and `--update-evidence` adds the rows to the records.
"""

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from cnn_site import CATEGORIES, ROOT, checks, pages
from cnn_site.equivalence import flatten
from cnn_site.evidence import Evidence

PROOFS = sorted(
    p
    for c in CATEGORIES
    for p in (ROOT / "tests" / c).glob("test_*.py")
    if not pages.is_draft(
        ROOT / "docs" / f"{checks.slug_of(p).replace('/test-', '/')}.md"
    )
)
BOUNDS = {"float64": 1e-10, "float32": 1e-4}  # of the largest entry


def cases(path: Path) -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location(f"devices_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if reason := getattr(module, "NO_DEVICE_CASES", ""):
        pytest.skip(reason)
    found = dict(module.DEVICE_CASES)
    assert found, f"{path.relative_to(ROOT)}: no case; say why in NO_DEVICE_CASES"
    return found


def test_a_proof_has_device_cases_or_says_why_not(tmp_path: Path) -> None:
    faults = [fault for path in PROOFS for fault in checks.device_cases(path)]
    assert not faults, "\n" + "\n".join(faults)
    path = tmp_path / "test_proof.py"
    for text, refused in (
        ("DEVICE_CASES = {'a': 1}", False),
        ("first, DEVICE_CASES = made()", False),
        ("NO_DEVICE_CASES = 'a schedule computes no tensors'", False),
        ("CASES = {}", True),
        ("DEVICE_CASES = {}\nNO_DEVICE_CASES = 'none'", True),
    ):
        path.write_text(text, encoding="utf-8")
        assert bool(checks.device_cases(path)) is refused, text


def moved(value: Any, device: str, dtype: torch.dtype) -> Any:
    if isinstance(value, nn.Module):
        return copy.deepcopy(value).to(device, dtype).eval()
    if isinstance(value, torch.Tensor):
        return (
            value.to(device, dtype) if value.is_floating_point() else value.to(device)
        )
    if isinstance(value, dict):
        return {k: moved(v, device, dtype) for k, v in value.items()}
    if isinstance(value, list):
        return [moved(v, device, dtype) for v in value]
    if isinstance(value, tuple):
        made = [moved(v, device, dtype) for v in value]
        return type(value)(*made) if hasattr(value, "_fields") else tuple(made)
    return value


def result(make: Any, device: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    run, inputs = make()
    torch.manual_seed(0)  # what the run itself draws
    out = moved(run, device, dtype)(*moved(inputs, device, dtype))
    return {k: v.detach().cpu() for k, v in flatten(out).items()}


def apart(ours: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    assert list(ours) == list(exact)
    worst = 0.0
    for name, value in exact.items():
        assert ours[name].shape == value.shape, (
            f"{name}: {ours[name].shape}, on the CPU {value.shape}"
        )
        if value.numel():
            gap = (ours[name].double() - value.double()).abs().max()
            worst = max(worst, float(gap / value.double().abs().max().clamp(min=1e-30)))
    return worst


@pytest.mark.parametrize("path", PROOFS, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_give_on_the_device_what_they_give_on_the_cpu(
    path: Path, request: pytest.FixtureRequest
) -> None:
    device = request.config.getoption("--device")
    precisions = {"float32": torch.float32}
    if device != "cpu":
        precisions["float64"] = torch.float64
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows: dict[str, dict[str, float]] = {}
    for name, make in cases(path).items():
        exact = result(make, "cpu", torch.float64)
        rows[name] = {
            p: apart(result(make, device, dtype), exact)
            for p, dtype in precisions.items()
        }
        for precision, gap in rows[name].items():
            bound = BOUNDS[precision]
            assert gap <= bound, (
                f"{name} in {precision} on {device}: {gap:.1e} apart, allowed {bound:.0e}"
            )
    if device != "cpu":
        from cnn_lab.record import environment

        now = environment(device)
        slug = f"{path.parent.name}/{path.stem.removeprefix('test_').replace('_', '-')}"
        evidence = Evidence(slug, update=request.config.getoption("--update-evidence"))
        evidence.on_device(
            device, rows, {k: now[k] for k in ("date", "torch", "python", "device")}
        )
