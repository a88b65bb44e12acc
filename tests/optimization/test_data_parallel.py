"""Two processes that share a batch have its gradient, also with unequal shares and parameters that one of them does not use.

One of the two processes is pytest, the other one this file, started as a program; both go through the same cases.
"""

import copy
import math
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from cnn_site.equivalence import difference
from cnn_site.fences import page_blocks
from cnn_techniques.optimization import average_gradients, copy_from_first, own_share

NO_DEVICE_CASES = "it moves numbers between processes and computes a sum and a product"
pytestmark = pytest.mark.xdist_group("data_parallel")  # one pair of processes for all
Gradients = dict[str, Tensor | None]


def network(
    norm: Callable[[int], nn.Module] = lambda c: nn.GroupNorm(2, c),
) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip
    return net.double()


def data(count: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 7, 6, generator=draw, dtype=torch.float64)
    return images, torch.randint(5, (count,), generator=draw)


def gradients(net: nn.Module) -> Gradients:
    return {
        name: None if p.grad is None else p.grad.clone()
        for name, p in net.named_parameters()
    }


def mean_loss(net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(net(images), labels)  # NaN where there is no image


class Branches(nn.Module):
    """Each process uses one of two heads, and none the third."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, *heads = (nn.Linear(3, 3).double() for _ in range(4))
        self.heads = nn.ModuleList(heads)

    def forward(self, x: Tensor, head: int) -> Tensor:
        return self.heads[head](self.body(x)).square().mean()


# ---------------------------------------------------------------- what both processes do


def shared(count: int) -> dict[str, Any]:
    """The gradient of a batch in shares, ours and torch's, and of each process's share alone."""
    images, labels = data(count)
    net = network()
    x, y = own_share(images), own_share(labels)
    mean_loss(net, x, y).backward()
    own = gradients(net)
    average_gradients(net, len(x))
    wrapped = DistributedDataParallel(network())
    mean_loss(wrapped, x, y).backward()
    return {
        "images": len(x),
        "own": own,
        "ours": gradients(net),
        "torch": gradients(wrapped.module),
    }


def copied() -> dict[str, Any]:
    torch.manual_seed(distributed.get_rank())
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net(torch.randn(5, 2))  # statistics
    before = copy.deepcopy(net.state_dict())
    copy_from_first(net)
    return {"before": before, "after": net.state_dict()}


def branches(wrap: bool) -> dict[str, Any]:
    rank, net = distributed.get_rank(), Branches()
    x = data(2, seed=rank)[0].flatten()[:12].reshape(4, 3)
    if wrap:
        whole = DistributedDataParallel(net, find_unused_parameters=True)
        whole(x, rank).backward()
    else:
        net(x, rank).backward()
        average_gradients(net, len(x))
    return {"x": x, "found": gradients(net)}


def two_types() -> dict[str, Any]:
    net = nn.Sequential(nn.Linear(1, 2), nn.Linear(2, 1).double())
    for p in net.parameters():
        p.grad = torch.full_like(p, 1.0 + distributed.get_rank())
    average_gradients(net, (1, 3)[distributed.get_rank()])
    return {"found": gradients(net)}


def trained(
    average: bool, norm: Callable[[int], nn.Module] | None = None
) -> dict[str, Any]:
    """Twelve steps with batches of 7."""
    net = network(norm) if norm else network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    for step in range(12):
        images, labels = map(own_share, data(7, seed=step))
        optimizer.zero_grad()
        mean_loss(net, images, labels).backward()
        if average:
            average_gradients(net, len(images))
        optimizer.step()
    return {"state": net.state_dict()}


def refused(count: tuple[float, float], sparse: bool = False) -> dict[str, Any]:
    """What is said, and the gradient afterwards."""
    rank = distributed.get_rank()
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.full((2,), 1.0 + rank)
    if sparse and rank:
        weight.grad = weight.grad.to_sparse()
    net = nn.Module()
    net.register_parameter("weight", weight)
    message = ""
    try:
        average_gradients(net, count[rank])
    except ValueError as error:
        message = str(error)
    return {"message": message, "gradient": weight.grad.to_dense()}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "8 images": lambda: shared(8),
    "7 images": lambda: shared(7),
    "1 image": lambda: shared(1),
    "copied": copied,
    "branches": lambda: branches(wrap=False),
    "branches in torch": lambda: branches(wrap=True),
    "two types": two_types,
    "trained": lambda: trained(average=True),
    "trained apart": lambda: trained(average=False),
    "trained with batch norm": lambda: trained(True, nn.BatchNorm2d),
    "a negative count": lambda: refused((2, -1)),
    "a count that is no number": lambda: refused((2, math.nan)),
    "no images": lambda: refused((0, 0)),
    "a sparse gradient": lambda: refused((2, 2), sparse=True),
}


def all_cases(store: str, rank: int) -> dict[str, dict[str, Any]]:
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=300),
    )
    try:
        return {name: case() for name, case in CASES.items()}
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What the cases gave in each of the two processes."""
    folder = tmp_path_factory.mktemp("pair")
    store, out = folder / "store", folder / "second.pt"
    command = [sys.executable, __file__, str(store), str(out)]
    path = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as second:
        try:
            first = all_cases(str(store), 0)
            assert second.wait(timeout=300) == 0
        finally:
            second.kill()
    return [first, torch.load(out, weights_only=True)]


def pick(pair: list[dict[str, Any]], case: str, what: str) -> tuple[Any, Any]:
    return pair[0][case][what], pair[1][case][what]


def largest(a: Gradients, b: Gradients) -> float:
    """The largest difference, relative to the largest entry of b."""
    assert a.keys() == b.keys()
    assert [n for n in a if a[n] is None] == [n for n in b if b[n] is None]
    pairs = [(a[n], b[n]) for n in a if b[n] is not None]
    top = max(float(y.abs().max()) for _, y in pairs)  # type: ignore[union-attr]
    return max(float((x - y).abs().max()) for x, y in pairs) / top  # type: ignore[operator]


def of_one_process(count: int) -> Gradients:
    net = network()
    mean_loss(net, *data(count)).backward()
    return gradients(net)


def trained_alone() -> dict[str, Tensor]:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.2, momentum=0.9)
    for step in range(12):
        optimizer.zero_grad()
        mean_loss(net, *data(7, seed=step)).backward()
        optimizer.step()
    return net.state_dict()


# ---------------------------------------------------------------- gradients


@pytest.mark.parametrize("count", [8, 7])
def test_the_gradient_is_that_of_one_process_with_the_whole_batch(
    evidence, pair: list[dict[str, Any]], count: int
) -> None:
    expected = of_one_process(count)
    ours, second = pick(pair, f"{count} images", "ours")
    assert largest(ours, second) == 0  # both have the same, to the last bit
    assert sum(pick(pair, f"{count} images", "images")) == count
    trained, alone = pair[0]["trained"]["state"], trained_alone()
    comparison = difference(
        {name: (trained[name], value) for name, value in alone.items()},
        {name: (ours[name], value) for name, value in expected.items()},
        shape=[count, 1, 7, 6],
        modes=["weights after 12 steps", "gradients"],
    )
    if count == 7:
        evidence.equivalent(
            "shares",
            comparison,
            reference="one process with the whole batch",
            settings="two processes with 4 and 3 images; gloo",
        )


def test_with_equal_shares_it_is_that_of_torch(
    evidence, pair: list[dict[str, Any]]
) -> None:
    ours, theirs = pair[0]["8 images"]["ours"], pair[0]["8 images"]["torch"]
    named = {name: (ours[name], theirs[name]) for name in theirs}
    evidence.equivalent(
        "torch",
        difference(named, shape=[8, 1, 7, 6], modes=["gradients"]),
        reference="torch.nn.parallel.DistributedDataParallel",
        settings="two processes with 4 images each; gloo",
    )


def test_with_unequal_shares_torch_has_the_mean_of_the_means(
    pair: list[dict[str, Any]],
) -> None:
    own = pick(pair, "7 images", "own")
    means = {name: (own[0][name] + own[1][name]) / 2 for name in own[0]}
    theirs = pair[0]["7 images"]["torch"]
    assert largest(theirs, means) < 1e-12
    assert largest(theirs, of_one_process(7)) > 0.01  # and this comparison can fail


def test_a_process_without_an_image_gives_nothing_and_gets_the_gradient(
    pair: list[dict[str, Any]],
) -> None:
    assert pick(pair, "1 image", "images") == (1, 0)
    own = pair[1]["1 image"]["own"]
    assert all(not value.nan_to_num().any() for value in own.values())
    for found in pick(pair, "1 image", "ours"):
        assert largest(found, of_one_process(1)) < 1e-12


def test_parameters_that_one_process_does_not_use_get_the_others_gradient(
    pair: list[dict[str, Any]],
) -> None:
    net = Branches()
    xs = pick(pair, "branches", "x")
    loss = torch.stack([net(x, head) for head, x in enumerate(xs)]).mean()
    loss.backward()
    expected = gradients(net)
    assert expected["heads.2.weight"] is None and expected["heads.1.weight"] is not None
    for case in ("branches", "branches in torch"):
        for found in pick(pair, case, "found"):
            assert largest(found, expected) < 1e-12, case


def test_gradients_of_two_types_are_averaged_each_in_its_own(
    pair: list[dict[str, Any]],
) -> None:
    for found in pick(pair, "two types", "found"):
        assert found["0.weight"].dtype == torch.float32
        assert found["1.weight"].dtype == torch.float64
        for value in found.values():
            assert value.eq((1 * 1 + 3 * 2) / 4).all()


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [0, 1, 7, 10])
def test_every_image_is_in_one_share_and_shares_differ_by_one_at_most(
    monkeypatch: pytest.MonkeyPatch, processes: int, count: int
) -> None:
    monkeypatch.setattr(distributed, "get_world_size", lambda: processes)
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        shares.append(own_share(torch.arange(count)).tolist())
    assert sorted(image for share in shares for image in share) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


# ---------------------------------------------------------------- weights


def test_the_first_process_gives_its_weights_and_statistics(
    pair: list[dict[str, Any]],
) -> None:
    before, after = pick(pair, "copied", "before"), pick(pair, "copied", "after")
    for name, value in before[0].items():
        assert torch.equal(after[0][name], value) and torch.equal(after[1][name], value)
    assert not torch.equal(before[0]["0.weight"], before[1]["0.weight"])
    assert not torch.equal(before[0]["1.running_mean"], before[1]["1.running_mean"])


def weights_apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    learnt = [n for n in a if "running" not in n and "tracked" not in n]
    return max(float((a[n] - b[n]).abs().max()) for n in learnt)


def test_a_training_ends_with_the_weights_of_one_process(
    pair: list[dict[str, Any]],
) -> None:
    alone = trained_alone()
    first, second = pick(pair, "trained", "state")
    assert weights_apart(first, second) == 0
    assert weights_apart(first, alone) < 1e-12
    assert weights_apart(network().state_dict(), alone) > 0.1
    first, second = pick(pair, "trained apart", "state")
    assert weights_apart(first, second) > 0.1


def test_batch_norm_takes_the_statistics_of_each_share(
    pair: list[dict[str, Any]],
) -> None:
    first, second = pick(pair, "trained with batch norm", "state")
    assert weights_apart(first, second) == 0
    assert not torch.allclose(first["1.running_mean"], second["1.running_mean"])


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads Linux's list")
@pytest.mark.parametrize("title", ["data_parallel.py", "ddp.py"])
def test_the_groups_threads_end_with_it(title: str, tmp_path: Path) -> None:
    page = Path("docs/optimization/data-parallel.md")
    (program,) = [b.code for b in page_blocks(page) if b.is_file and b.title == title]
    (tmp_path / title).write_text(
        f"{program}\nfrom pathlib import Path\n"
        "names = [p.read_text() for p in Path('/proc/self/task').glob('*/comm')]\n"
        "assert not any('gloo' in name for name in names), names\n"
    )
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([sys.executable, *run, title], cwd=tmp_path, check=True)


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("case", "counts", "faults"),
    [
        ("a negative count", ("2", "-1"), 1),
        ("a count that is no number", ("2", "nan"), 1),
        ("no images", ("0", "0"), 0),
        ("a sparse gradient", ("2", "2"), 1),
    ],
)
def test_a_fault_in_one_process_is_refused_in_both_and_nothing_changes(
    pair: list[dict[str, Any]], case: str, counts: tuple[str, str], faults: int
) -> None:
    for rank, message in enumerate(pick(pair, case, "message")):
        assert f"got count={counts[rank]} here, faults in {faults} processes" in message
        assert pair[rank][case]["gradient"].tolist() == [1.0 + rank] * 2


def test_a_module_without_parameters_that_learn_is_refused() -> None:
    with pytest.raises(ValueError, match=r"got none in Linear"):
        average_gradients(nn.Linear(2, 2).requires_grad_(False), 1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.save(all_cases(sys.argv[1], 1), Path(sys.argv[2]))
