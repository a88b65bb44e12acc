"""A fence that prints another number on another processor is refused; one that does not is left alone."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnn_site import processors
from cnn_site.fences import CodeBlock
from cnn_site.processors import PROCESSORS, other_rounding
from cnn_site.runner import run_block

TRAINING = """\
import torch
from torch import nn

{dtype}torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
)
images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
optimizer = torch.optim.AdamW(net.parameters(), lr=0.02)
for step in range(60):
    loss = nn.functional.cross_entropy(net(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"loss {{loss:.3e}}")
"""
FLOAT32 = TRAINING.format(dtype="")
FLOAT64 = TRAINING.format(dtype="torch.set_default_dtype(torch.float64)\n")


def printed(code: str) -> str:
    lines = tuple((None, n + 1) for n in range(code.count("\n") + 1))
    return run_block(CodeBlock("py", (), "", code, lines, 1), Path("page.md"), {})


def page(folder: Path, code: str) -> str:
    """A page that is right on this processor."""
    path = folder / "page.md"
    shown = printed(code)
    path.write_text(f"# Page\n\n```py\n{code}```\n\n```{{.text .output}}\n{shown}```\n")
    return str(path)


@pytest.mark.parametrize(
    "name",
    ["unknown", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sse",))],
)
def test_sixty_steps_in_float32_are_refused_and_in_float64_are_not(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted = page(tmp_path, FLOAT32)
    assert processors.main(["--only", name, planted]) == 1
    told = capsys.readouterr().out
    assert "page.md, line 3: printed" in told and "1 fences, 0 tests, 1 differ" in told
    assert processors.main(["--only", name, page(tmp_path, FLOAT64)]) == 0
    assert "1 fences, 0 tests, 0 differ" in capsys.readouterr().out


def test_a_page_without_a_fence_that_runs_is_an_error(tmp_path: Path) -> None:
    empty = tmp_path / "page.md"
    empty.write_text("# Nothing\n")
    with pytest.raises(RuntimeError, match=r"unknown: pytest exits with 5"):
        processors.run(PROCESSORS[-1], [str(empty)])


def test_only_what_is_rounded_is_moved_and_always_alike() -> None:
    x = torch.randn(8, 300, generator=torch.Generator().manual_seed(1))
    whole = torch.arange(24.0).view(4, 6)
    with other_rounding():
        moved, again = x @ x.T, x @ x.T
        assert torch.equal(moved, again)
        assert torch.equal(whole @ whole.T, (whole.double() @ whole.T.double()).float())
        assert torch.equal(F.conv2d(torch.zeros(1, 2, 5, 5), torch.randn(3, 2, 3, 3)), torch.zeros(1, 3, 3, 3))  # fmt: skip
        double = x.double() @ x.T.double()
    assert torch.equal(double, x.double() @ x.T.double())
    error = (moved - x @ x.T).abs().max() / moved.abs().max()
    assert 1e-7 < error < 1e-5


def test_gradients_are_moved_as_well() -> None:
    layer, x = nn.Conv2d(8, 8, 3), torch.randn(4, 8, 9, 9)

    def gradient() -> torch.Tensor:
        layer.zero_grad()
        with torch.no_grad():  # the same loss for both: a sum of whole numbers
            target = torch.ones(4, 8, 7, 7)
        layer(x).backward(target)
        assert layer.weight.grad is not None
        return layer.weight.grad.clone()

    plain = gradient()
    with other_rounding():
        moved = gradient()
    assert not torch.equal(plain, moved)
    torch.testing.assert_close(plain, moved, rtol=1e-3, atol=1e-4)


def test_the_record_is_written_once_and_not_again_for_a_date(tmp_path: Path) -> None:
    runs = [processors.Run(p, 1, 0, 0, 1.0, "") for p in PROCESSORS]
    path = tmp_path / "processors.json"
    processors.write_record(runs, path)
    written = json.loads(path.read_text())
    assert [row["name"] for row in written["processors"]] == [
        p.name for p in PROCESSORS
    ]
    assert written["pages"]["README.md"] == processors.fences()["README.md"]
    written["made"]["date"] = "2000-01-01"
    path.write_text(json.dumps(written))
    processors.write_record(runs, path)
    assert json.loads(path.read_text())["made"]["date"] == "2000-01-01"
    written["pages"]["README.md"] = []
    path.write_text(json.dumps(written))
    processors.write_record(runs, path)
    assert json.loads(path.read_text())["made"]["date"] != "2000-01-01"


def test_all_pages_are_recorded_on_all_processors_or_not_at_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        processors.main(["--update-evidence", "--only", "sse"])
    assert "records all pages on all processors" in capsys.readouterr().err
