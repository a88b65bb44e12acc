"""The eight symmetries are a group, NumPy's turns and flips and torchvision's, for any bands; masks, boxes and directions go along."""

from functools import partial
from itertools import permutations, product

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as VF

from cnn_lab import bench
from cnn_site.bench import (
    arguments,
    beside_the_baseline,
    cost_beside_the_baseline,
    time_beside_the_baseline,
)
from cnn_site.parity import compare_draws
from cnn_techniques.training import (
    SQUARE_SYMMETRIES,
    SatelliteAugmentation,
    apply_symmetry,
    compose_symmetries,
    inverse_symmetry,
    symmetry_boxes,
    symmetry_vectors,
)

NAMES = list(SQUARE_SYMMETRIES)
EIGHT = torch.tensor(list(SQUARE_SYMMETRIES.values()))  # (8, 3)
FOUR = EIGHT[~EIGHT[:, 0]]  # of a rectangle
DRAWS = {"in order": EIGHT, "in another": EIGHT[[3, 6, 1, 7, 0, 2, 5, 4]]}
# NumPy's own turns (counter-clockwise), flips and transposition, on the last two axes.
NUMPY = {
    "as it is": lambda a: a,
    "turn 90": lambda a: np.rot90(a, 1, (-2, -1)),
    "turn 180": lambda a: np.rot90(a, 2, (-2, -1)),
    "turn 270": lambda a: np.rot90(a, 3, (-2, -1)),
    "mirror": lambda a: np.flip(a, -1),
    "upside down": lambda a: np.flip(a, -2),
    "transpose": lambda a: np.swapaxes(a, -2, -1),
    "anti-transpose": lambda a: np.swapaxes(np.rot90(a, 2, (-2, -1)), -2, -1),
}
MATRICES = {  # of (x, y), to the right and down
    "as it is": [[1, 0], [0, 1]],
    "turn 90": [[0, 1], [-1, 0]],
    "turn 180": [[-1, 0], [0, -1]],
    "turn 270": [[0, -1], [1, 0]],
    "mirror": [[-1, 0], [0, 1]],
    "upside down": [[1, 0], [0, -1]],
    "transpose": [[0, 1], [1, 0]],
    "anti-transpose": [[0, -1], [-1, 0]],
}


def name_of(symmetry: Tensor) -> str:
    return NAMES[[tuple(row) for row in EIGHT.tolist()].index(tuple(symmetry.tolist()))]


def bands(height: int = 6, width: int = 6, count: int = 13) -> Tensor:
    """16-bit numbers, as satellites give them, all different within a band."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randperm(height * width, generator=generator) for _ in range(count)]
    one = torch.stack(rows).view(1, count, height, width)
    return (one + 1000 * torch.arange(8).view(-1, 1, 1, 1)).int()


def boxes(height: int = 6, width: int = 6) -> Tensor:
    """Three boxes for each of eight images."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, 3, 2, generator=generator, dtype=torch.float64).sort().values
    y = torch.rand(8, 3, 2, generator=generator, dtype=torch.float64).sort().values
    x, y = x * width, y * height
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


DEVICE_CASES = {
    "apply_symmetry": lambda: (apply_symmetry, (bands(), EIGHT)),
    "symmetry_vectors": lambda: (symmetry_vectors, (bands(count=2).float(), EIGHT)),
    "symmetry_boxes": lambda: (
        partial(symmetry_boxes, height=6, width=6),
        (boxes(), EIGHT),
    ),
}


# ---------------------------------------------------------------- the references


def by_numpy(images: Tensor, drawn: Tensor) -> Tensor:
    found = [NUMPY[name_of(s)](i) for i, s in zip(images.numpy(), drawn, strict=True)]
    return torch.tensor(np.stack(found))


def test_bands_and_masks_are_numpys_turns_and_flips(evidence) -> None:
    comparison = compare_draws(
        apply_symmetry,
        by_numpy,
        {
            "13 bands, int32": bands(),
            "4 bands, float64": bands(count=4).double() / 7,
            "masks, int64": bands(count=1)[:, 0].long() % 5,
        },
        DRAWS,
        square=True,
    )
    evidence.equivalent(
        "numpy",
        comparison,
        reference="numpy.rot90, flip and swapaxes",
        settings="all eight symmetries; 13 and 4 bands, and masks",
    )


def test_a_rectangle_has_the_four_that_keep_its_shape() -> None:
    compare_draws(
        apply_symmetry,
        by_numpy,
        {"5 x 7": bands(5, 7)[:4]},
        {"in order": FOUR, "in another": FOUR.flip(0)},
    )
    with pytest.raises(ValueError, match="square images to transpose, got 5 x 7"):
        apply_symmetry(bands(5, 7), EIGHT)
    assert apply_symmetry(bands(5, 7)[:4], FOUR).shape == (4, 13, 5, 7)


def by_torchvision(value: dict[str, Tensor], drawn: Tensor) -> dict[str, Tensor]:
    """Turned and flipped by torchvision, which has no transposition: a turn and a flip."""
    turns = {"turn 90": 90, "turn 180": 180, "turn 270": 270}
    turns |= {"transpose": 90, "anti-transpose": 90}
    flips = {
        "mirror": VF.horizontal_flip,
        "upside down": VF.vertical_flip,
        "transpose": VF.vertical_flip,
        "anti-transpose": VF.horizontal_flip,
    }
    found: dict[str, list[Tensor]] = {"image": [], "mask": [], "boxes": []}
    for n, one in enumerate(drawn):
        size = tuple(value["image"].shape[-2:])
        parts = {
            "image": tv_tensors.Image(value["image"][n]),
            "mask": tv_tensors.Mask(value["mask"][n]),
            "boxes": tv_tensors.BoundingBoxes(  # type: ignore[call-overload]
                value["boxes"][n], format="XYXY", canvas_size=size
            ),
        }
        name = name_of(one)
        for key, part in parts.items():
            if name in turns:
                part = VF.rotate(part, turns[name], v2.InterpolationMode.NEAREST)
            if name in flips:
                part = flips[name](part)
            found[key].append(part.as_subclass(Tensor))
    return {key: torch.stack(parts) for key, parts in found.items()}


def test_images_masks_and_boxes_are_torchvisions(evidence) -> None:
    def ours(value: dict[str, Tensor], drawn: Tensor) -> dict[str, Tensor]:
        return {
            "image": apply_symmetry(value["image"], drawn),
            "mask": apply_symmetry(value["mask"], drawn),
            "boxes": symmetry_boxes(value["boxes"], drawn, 6, 6),
        }

    value = {
        "image": bands(count=5).double(),
        "mask": bands(count=1)[:, 0].long() % 5,
        "boxes": boxes(),
    }
    comparison = compare_draws(ours, by_torchvision, {"all": value}, DRAWS, square=True)
    evidence.equivalent(
        "torchvision",
        comparison,
        reference="torchvision.transforms.v2.functional: rotate, horizontal_flip, vertical_flip",
        settings="all eight symmetries; five bands, masks and boxes, float64",
    )


# ---------------------------------------------------------------- a group


def changed(symmetry: Tensor) -> Tensor:
    """The numbers 0 to 15 on a square of four, moved."""
    return apply_symmetry(torch.arange(16).view(1, 4, 4), symmetry[None])[0]


def pairs() -> list[tuple[Tensor, Tensor]]:
    return list(product(EIGHT, EIGHT))


def test_the_eight_are_all_and_all_different() -> None:
    assert len({tuple(changed(s).flatten().tolist()) for s in EIGHT}) == 8
    assert sorted(EIGHT.tolist()) == sorted(map(list, product([False, True], repeat=3)))
    # Of the 24 ways to put a square's corners on its corners, 8 keep neighbours.
    around = [(0, 1), (1, 2), (2, 3), (3, 0)]
    kept = [
        p
        for p in permutations(range(4))
        if all(abs(p[a] - p[b]) in (1, 3) for a, b in around)
    ]
    assert len(kept) == 8
    places = torch.arange(4).view(1, 2, 2)[..., [0, 1]]
    corner = [0, 1, 3, 2]  # row by row -> around
    found = set()
    for s in EIGHT:
        moved = apply_symmetry(places, s[None]).flatten().tolist()
        found.add(tuple(corner.index(moved[c]) for c in corner))
    assert found == set(kept)


def test_one_after_the_other_is_the_composed_one() -> None:
    images = bands(4, 4, 3)
    for second, first in pairs():
        both = compose_symmetries(second, first)
        assert both.tolist() in EIGHT.tolist()  # closure
        step = apply_symmetry(images, first.expand(8, 3))
        expected = apply_symmetry(step, second.expand(8, 3))
        assert torch.equal(apply_symmetry(images, both.expand(8, 3)), expected)


def test_the_composition_table_is_that_of_the_matrices() -> None:
    by_matrix = {tuple(map(tuple, m)): name for name, m in MATRICES.items()}
    assert len(by_matrix) == 8
    signed = [  # all matrices of whole numbers that keep lengths
        m
        for m in product(product([-1, 0, 1], repeat=2), repeat=2)
        if np.array_equal(np.array(m) @ np.array(m).T, np.eye(2))
    ]
    assert set(signed) == set(by_matrix)
    table = []
    for second, first in pairs():
        product_of_both = np.array(MATRICES[name_of(second)]) @ MATRICES[name_of(first)]
        expected = by_matrix[tuple(map(tuple, product_of_both.tolist()))]
        table.append(name_of(compose_symmetries(second, first)))
        assert table[-1] == expected
    rows = [table[k : k + 8] for k in range(0, 64, 8)]
    for line in (*rows, *zip(*rows, strict=True)):
        assert sorted(line) == sorted(NAMES)  # each once: a Latin square


def test_identity_inverses_and_brackets() -> None:
    one = EIGHT[0]
    for s in EIGHT:
        assert torch.equal(compose_symmetries(s, one), s)
        assert torch.equal(compose_symmetries(one, s), s)
        back = inverse_symmetry(s)
        assert torch.equal(compose_symmetries(back, s), one)
        assert torch.equal(compose_symmetries(s, back), one)
        assert torch.equal(apply_symmetry(changed(s)[None], back[None])[0], changed(one))  # fmt: skip
    for a, b, c in product(EIGHT, repeat=3):
        left = compose_symmetries(compose_symmetries(a, b), c)
        assert torch.equal(left, compose_symmetries(a, compose_symmetries(b, c)))
    # All at once, in a batch.
    assert torch.equal(
        compose_symmetries(inverse_symmetry(EIGHT), EIGHT), one.expand(8, 3)
    )


def test_it_is_the_dihedral_group_and_no_other_of_eight() -> None:
    turn, mirror = (torch.tensor(SQUARE_SYMMETRIES[n]) for n in ("turn 90", "mirror"))
    orders = []
    for s in EIGHT:
        power, order = s, 1
        while power.any():
            power, order = compose_symmetries(power, s), order + 1
        orders.append(order)
    assert dict(zip(NAMES, orders, strict=True)) == {
        "as it is": 1,
        "turn 90": 4,
        "turn 180": 2,
        "turn 270": 4,
        **dict.fromkeys(["mirror", "upside down", "transpose", "anti-transpose"], 2),
    }
    # The relation that makes it dihedral: a mirrored turn is the turn back.
    around = compose_symmetries(mirror, compose_symmetries(turn, mirror))
    assert torch.equal(around, inverse_symmetry(turn))
    made, power = set(), EIGHT[0]
    for _ in range(4):  # the turn and the mirror make all eight
        made |= {name_of(power), name_of(compose_symmetries(power, mirror))}
        power = compose_symmetries(turn, power)
    assert made == set(NAMES)
    commute = [torch.equal(compose_symmetries(a, b), compose_symmetries(b, a)) for a, b in pairs()]  # fmt: skip
    assert sum(commute) == 40  # five classes of eight


# ---------------------------------------------------------------- masks, boxes, directions


def test_boxes_stay_around_their_pixels() -> None:
    images = torch.zeros(8, 1, 9, 9)
    box = torch.tensor([1, 2, 5, 4]).expand(8, 1, 4)
    images[:, :, 2:4, 1:5] = 1
    moved = apply_symmetry(images, EIGHT)
    for image, (x1, y1, x2, y2) in zip(moved, symmetry_boxes(box, EIGHT, 9, 9)[:, 0].tolist(), strict=True):  # fmt: skip
        assert image[0, y1:y2, x1:x2].sum() == image.sum() == (y2 - y1) * (x2 - x1)


def test_boxes_of_a_rectangle_stay_around_their_pixels() -> None:
    images = torch.zeros(4, 1, 6, 9)
    images[:, :, 2:4, 1:5] = 1
    box = torch.tensor([1, 2, 5, 4]).expand(4, 1, 4)
    moved = apply_symmetry(images, FOUR)
    for image, (x1, y1, x2, y2) in zip(moved, symmetry_boxes(box, FOUR, 6, 9)[:, 0].tolist(), strict=True):  # fmt: skip
        assert image[0, y1:y2, x1:x2].sum() == image.sum()


def slope(height: Tensor) -> Tensor:
    """Uphill, to the right and down: (N, 1, H, W) -> (N, 2, H, W)."""
    right = height.roll(-1, -1) - height.roll(1, -1)
    down = height.roll(-1, -2) - height.roll(1, -2)
    return torch.cat([right, down], dim=1)


def test_directions_are_those_of_the_moved_terrain() -> None:
    terrain = bands(count=1).double()
    expected = slope(apply_symmetry(terrain, EIGHT))
    assert torch.equal(symmetry_vectors(slope(terrain), EIGHT), expected)
    moved_alone = apply_symmetry(slope(terrain), EIGHT)
    right = (moved_alone == expected).flatten(1).all(dim=1)
    assert [n for n, r in zip(NAMES, right.tolist(), strict=True) if r] == ["as it is"]


def test_directions_are_turned_by_the_matrices() -> None:
    vectors = torch.randn(8, 2, 1, 1, dtype=torch.float64)
    found = symmetry_vectors(vectors, EIGHT)[..., 0, 0]
    for name, before, after in zip(NAMES, vectors[..., 0, 0], found, strict=True):
        expected = np.array(MATRICES[name]) @ before.numpy()
        np.testing.assert_allclose(after.numpy(), expected)


def test_the_class_moves_everything_by_one_draw() -> None:
    terrain = bands(count=1).double()
    stack = torch.cat([bands(count=3).double(), slope(terrain)], dim=1)
    masks, around = bands(count=1)[:, 0].long() % 4, boxes()
    augment = SatelliteAugmentation(vectors=[(3, 4)])
    for seed in range(5):
        torch.manual_seed(seed)
        drawn = augment.draw(8)
        torch.manual_seed(seed)
        x, y, b = augment(stack, masks, around)
        assert y is not None
        assert b is not None
        assert torch.equal(x[:, :3], apply_symmetry(stack[:, :3], drawn))
        assert torch.equal(x[:, 3:], symmetry_vectors(stack[:, 3:], drawn))
        assert torch.equal(y, apply_symmetry(masks, drawn))
        assert torch.equal(b, symmetry_boxes(around, drawn, 6, 6))
    assert augment(stack)[1:] == (None, None)


# ---------------------------------------------------------------- the draw


def test_all_eight_are_drawn_alike_and_four_for_a_rectangle() -> None:
    torch.manual_seed(0)
    augment, weights = SatelliteAugmentation(), torch.tensor([4, 2, 1])
    counts = torch.bincount((augment.draw(80_000) * weights).sum(1), minlength=8)
    assert (counts / 10_000 - 1).abs().max() < 0.05
    counts = torch.bincount((augment.draw(80_000, False) * weights).sum(1), minlength=8)
    assert (counts[:4] / 20_000 - 1).abs().max() < 0.05
    assert counts[4:].sum() == 0
    assert augment(bands(5, 7))[0].shape == (8, 13, 5, 7)


def test_the_seed_decides_and_the_batch_is_not_changed() -> None:
    images, outs = bands(), []
    before = images.clone()
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        outs.append(SatelliteAugmentation(vectors=[(0, 1)])(images)[0])
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    assert torch.equal(images, before)
    assert outs[0].dtype == images.dtype


def test_gradients_come_back_to_where_the_pixels_were() -> None:
    images = bands(count=2).double().requires_grad_()
    weight = torch.randn(8, 2, 6, 6, dtype=torch.float64)
    (apply_symmetry(images, EIGHT) * weight).sum().backward()
    assert torch.equal(images.grad, apply_symmetry(weight, inverse_symmetry(EIGHT)))


# ---------------------------------------------------------------- bad input


def test_symmetries_that_are_none_are_refused() -> None:
    with pytest.raises(TypeError, match=r"bools, got torch\.int64"):
        apply_symmetry(bands(), EIGHT.long())
    with pytest.raises(ValueError, match=r"\(8, 13, 6, 6\) and \(7, 3\)"):
        apply_symmetry(bands(), EIGHT[:7])
    with pytest.raises(ValueError, match=r"\(8, 6\) and \(8, 3\)"):
        apply_symmetry(bands()[:, 0, 0], EIGHT)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([(0, 0)], "pairs of different bands"),
        ([(0, 1), (1, 2)], "pairs of different bands"),
        ([(0, 1, 2)], "pairs of different bands"),
        ([(-1, 2)], r"bands from 0, got vectors=\[\(-1, 2\)\]"),
    ],
)
def test_impossible_pairs_of_bands_are_refused(vectors: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SatelliteAugmentation(vectors)


def test_images_masks_and_boxes_that_do_not_fit_are_refused() -> None:
    augment, images = SatelliteAugmentation(), bands()
    with pytest.raises(ValueError, match=r"got \(13, 6, 6\)"):
        augment(images[0])
    with pytest.raises(ValueError, match=r"masks \(8, 6, 6\), got \(8, 1, 6, 6\)"):
        augment(images, images[:, :1])
    with pytest.raises(ValueError, match=r"boxes \(8, K, 4\), got \(8, 4\)"):
        augment(images, boxes=boxes()[:, 0])
    with pytest.raises(ValueError, match=r"bands below 13, got vectors=\(\(3, 13\),\)"):
        SatelliteAugmentation([(3, 13)])(images)


# ---------------------------------------------------------------- the bench


ARMS = ["eight", "four"]


def bench_arm(key: str) -> bench.Arm:
    """Garments have a right way up: what a symmetry does that is none of the data."""
    names = {"eight": "All eight symmetries", "four": "Flips and half-turns"}
    augment = SatelliteAugmentation()

    def changed(x: Tensor, y: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        torch.manual_seed(draw.initial_seed())  # `fit` gives the global state back
        return apply_symmetry(x, augment.draw(len(x), key == "eight")), y

    return bench.Arm(names[key], batch_transform=changed)


def test_cost_on_the_bench(evidence) -> None:
    evidence.computed("bench", cost_beside_the_baseline(bench_arm, ARMS))


@pytest.mark.record
def test_record_what_it_is_worth_on_the_bench(evidence) -> None:
    run = partial(beside_the_baseline, bench_arm, ARMS)
    evidence.measured("bench", arguments=arguments(), run=run)


@pytest.mark.record
def test_record_what_a_step_costs_on_the_bench(evidence) -> None:
    run = partial(time_beside_the_baseline, bench_arm, ARMS)
    evidence.measured("time", arguments={}, run=run)
