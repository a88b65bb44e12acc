"""DropBlock drops what torchvision drops, by the paper's algorithm; how much that is follows from the overlaps."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torchvision import ops

from cnn_lab import bench
from cnn_site.bench import arguments, beside_the_baseline, cost_beside_the_baseline
from cnn_site.equivalence import compare
from cnn_site.parity import compare_draws
from cnn_techniques.training import DropBlock, centre_rate, drop_blocks


def drawn(
    block_size: int, height: int, width: int, gamma: float = 0.05
) -> tuple[Tensor, Tensor]:
    """A feature map (4, 3, H, W), and the centres of some blocks."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, height, width, generator=generator, dtype=torch.float64)
    shape = 4, 3, height - block_size + 1, width - block_size + 1
    return x, (torch.rand(shape, generator=generator) < gamma).double()


DEVICE_CASES = {
    "drop_blocks": lambda: (
        partial(drop_blocks, block_size=5),
        tuple(t.float() for t in drawn(5, 14, 11)),
    )
}


def seeded(run, x: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    return run(x)


@pytest.mark.parametrize("block_size", [1, 3, 7])
def test_the_same_draw_drops_what_torchvision_drops(evidence, block_size: int) -> None:
    x, _ = drawn(block_size, 14, 11)
    comparison = compare_draws(
        partial(seeded, DropBlock(0.3, block_size)),
        partial(seeded, ops.DropBlock2d(0.3, block_size, eps=0.0)),
        {"feature map": x},
        {"seed 0": 0, "seed 1": 1, "seed 2": 2},
    )
    if block_size == 7:
        evidence.equivalent(
            "draws",
            comparison,
            reference="torchvision.ops.DropBlock2d",
            settings="p=0.3, block_size=7, eps=0.0, where the default is 1e-6",
        )


def test_outputs_and_gradients_of_a_network_are_those_of_torchvision(evidence) -> None:
    def network(drop) -> nn.Module:
        layers = [
            nn.Conv2d(3, 8, 3, padding=1),
            drop(0.1, 7),
            nn.Conv2d(8, 8, 3),
            drop(0.25, 3),
        ]
        return nn.Sequential(*layers)

    images = torch.randn(4, 3, 14, 11, generator=torch.Generator().manual_seed(0))
    comparison = compare(
        network(DropBlock), network(partial(ops.DropBlock2d, eps=0.0)), images
    )
    evidence.equivalent(
        "network",
        comparison,
        reference="torchvision.ops.DropBlock2d",
        settings="two convolutions, a DropBlock behind each; eps=0.0, the same seed",
    )


@pytest.mark.parametrize(
    ("block_size", "height", "width"), [(1, 6, 5), (3, 9, 7), (5, 5, 8), (7, 14, 11)]
)
def test_it_is_the_algorithm_of_the_paper_block_by_block(
    block_size: int, height: int, width: int
) -> None:
    x, centres = drawn(block_size, height, width)
    mask, half = torch.ones_like(x), block_size // 2
    for n, c, row, column in centres.nonzero().tolist():
        top, left = row + half, column + half  # the centre, in the whole map
        for i in range(top - half, top + half + 1):
            for j in range(left - half, left + half + 1):
                mask[n, c, i, j] = 0
    expected = x * mask * mask.numel() / mask.sum()
    torch.testing.assert_close(drop_blocks(x, centres, block_size), expected)


def test_every_block_lies_within_the_map_and_corners_can_be_reached() -> None:
    for row, column in ((0, 0), (0, 4), (7, 0), (7, 4)):
        centres = torch.zeros(1, 1, 8, 5)
        centres[0, 0, row, column] = 1
        dropped = drop_blocks(torch.ones(1, 1, 14, 11), centres, 7) == 0
        assert dropped.sum() == 49
        assert dropped[0, 0, row : row + 7, column : column + 7].all()


def expected_share(p: float, block_size: int, height: int, width: int) -> float:
    """Of the positions, dropped on average: 1 - (1 - gamma)^(centres whose block covers one)."""
    covers = [
        torch.tensor(
            [min(i + 1, block_size, n - i, n - block_size + 1) for i in range(n)]
        )
        for n in (height, width)
    ]
    gamma = centre_rate(p, block_size, height, width)
    count = covers[0][:, None] * covers[1].double()
    return float((1 - (1 - gamma) ** count).mean())


CASES = {  # name, block size, height and width
    "56": ("56 × 56", 7, 56, 56),
    "28": ("28 × 28", 7, 28, 28),
    "14": ("14 × 14", 7, 14, 14),
    "7": ("7 × 7", 7, 7, 7),
    "dropout": ("14 × 14, blocks of 1", 1, 14, 14),
}


@pytest.mark.parametrize("p", [0.1, 0.25])
@pytest.mark.parametrize("case", [*CASES, "oblong"])
def test_the_share_that_is_dropped_follows_from_the_overlaps(
    case: str, p: float
) -> None:
    _, block_size, height, width = CASES.get(case, ("", 5, 9, 14))
    torch.manual_seed(0)
    maps = 2000 + 300_000 // (height * width)
    dropped = DropBlock(p, block_size)(torch.ones(1, maps, height, width)) == 0
    shares = dropped.double().mean(dim=(2, 3)).flatten()
    expected = expected_share(p, block_size, height, width)
    error = float(shares.std()) / math.sqrt(len(shares))
    assert float(shares.mean()) == pytest.approx(expected, abs=5 * error)
    assert expected <= p + 1e-12


def test_without_overlaps_the_expected_share_would_be_p() -> None:
    for p, block_size, height, width in ((0.1, 7, 28, 28), (0.25, 3, 9, 14)):
        gamma = centre_rate(p, block_size, height, width)
        centres = (height - block_size + 1) * (width - block_size + 1)
        assert gamma * centres * block_size**2 / (height * width) == pytest.approx(p)
    assert expected_share(0.3, 1, 9, 7) == pytest.approx(0.3)  # dropout
    assert expected_share(0.3, 7, 7, 7) == pytest.approx(0.3)  # whole channels


def test_what_share_is_dropped(evidence) -> None:
    evidence.computed(
        "share",
        {
            key: {
                "name": name,
                "centre": 1e4 * centre_rate(0.1, *case),
                "tenth": expected_share(0.1, *case),
                "quarter": expected_share(0.25, *case),
            }
            for key, (name, *case) in CASES.items()
        },
    )


def test_blocks_of_1_are_dropout_and_blocks_of_the_map_are_whole_channels() -> None:
    torch.manual_seed(0)
    x = torch.ones(64, 16, 7, 7)
    alone = DropBlock(0.3, 1)(x) == 0
    assert alone.float().mean().item() == pytest.approx(0.3, abs=0.02)
    beside = (alone[..., 1:] & alone[..., :-1]).float().mean().item()
    assert beside == pytest.approx(0.09, abs=0.01)  # no more often than by chance
    whole = (DropBlock(0.3, 7)(x) == 0).flatten(2).float().mean(dim=2)
    assert set(whole.flatten().tolist()) == {0.0, 1.0}


def test_the_mean_of_ones_stays_exactly() -> None:
    torch.manual_seed(0)
    out = DropBlock(0.25, 5)(torch.ones(4, 8, 14, 11, dtype=torch.float64))
    assert out.mean().item() == pytest.approx(1)
    assert out.max() > 1


def test_where_all_is_dropped_zeros_are_left() -> None:
    out = drop_blocks(torch.ones(2, 1, 3, 3), torch.ones(2, 1, 1, 1), 3)
    assert torch.equal(out, torch.zeros(2, 1, 3, 3))


def test_channels_and_images_are_drawn_apart() -> None:
    torch.manual_seed(0)
    out = DropBlock(0.3, 3)(torch.ones(2, 3, 9, 9)) == 0
    maps = out.reshape(6, -1)
    assert len({tuple(row.tolist()) for row in maps}) == 6


def test_in_evaluation_and_with_a_rate_of_0_the_input_itself_comes_back() -> None:
    x = torch.randn(2, 3, 9, 7)
    assert DropBlock(0.5, 3).eval()(x) is x
    assert DropBlock(0.0, 3)(x) is x


def test_rates_and_blocks_that_are_none_are_refused() -> None:
    for p in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=f"p={p}"):
            DropBlock(p)
    for block_size in (0, -1, 2, 6, 2.5):
        with pytest.raises(ValueError, match=f"block_size={block_size}"):
            DropBlock(0.1, block_size)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(2, 3, 6, 9), (2, 3, 9, 6), (3, 9, 9), (2, 3)])
def test_maps_smaller_than_a_block_are_refused_in_evaluation_too(
    shape: tuple[int, ...],
) -> None:
    for layer in (DropBlock(0.1, 7), DropBlock(0.1, 7).eval()):
        with pytest.raises(ValueError, match="H and W of 7 or more"):
            layer(torch.zeros(shape))


# ---------------------------------------------------------------- the bench


ARMS = ["blocks", "few", "dropout"]
NAMES = {
    "blocks": "DropBlock, blocks of 3",
    "few": "DropBlock, blocks of 3",
    "dropout": "The same with blocks of 1",
}


def bench_network(block_size: int) -> nn.Module:
    """Behind each of the last two stages, whose maps are 7 x 7 and 4 x 4."""
    model = bench.network()
    for stage in (model.layer2, model.layer3):
        stage.append(DropBlock(0.1, block_size))
    return model


def bench_arm(key: str) -> bench.Arm:
    return bench.Arm(
        NAMES[key],
        network=partial(bench_network, 1 if key == "dropout" else 3),
        handicap="few images" if key == "few" else "none",
    )


def test_the_layers_on_the_bench_fit_their_maps() -> None:
    model, sizes = bench_network(3), []
    for layer in model.modules():
        if isinstance(layer, DropBlock):
            layer.register_forward_hook(lambda _, x, y: sizes.append(y.shape[2:]))
    model(torch.zeros(2, 1, 28, 28))
    assert sizes == [(7, 7), (4, 4)]


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed(
        "bench", cost_beside_the_baseline(bench_arm, ["blocks", "dropout"])
    )


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ARMS)
    evidence.measured("bench", arguments=arguments(), run=run)
