"""Anchors, their matches and the code of a box are torchvision's; and areas, matches and codes are found a second way, by counting."""

from fractions import Fraction

import pytest
import torch
from torch import Tensor
from torchvision.models.detection import _utils as theirs
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou as torchvision_iou

from cnn_site.equivalence import difference
from cnn_techniques.detection import (
    anchor_shapes,
    box_iou,
    centre_and_size,
    decode_boxes,
    encode_boxes,
    grid_anchors,
    match_anchors,
)

ONES, SECOND_STAGE = (1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)
RATIOS = (0.5, 1.0, 2.0)
# What detectors set: low, high, and whether every object keeps its best anchor.
SETTINGS = {
    "RPN": (0.3, 0.7, True),
    "RetinaNet": (0.4, 0.5, True),
    "second stage of Faster R-CNN": (0.5, 0.5, False),
}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def boxes(count: int, size: float = 96.0, dtype: torch.dtype = torch.float64) -> Tensor:
    corner = torch.rand(count, 2, dtype=dtype) * size * 0.7
    return torch.cat(
        [corner, corner + 4 + torch.rand(count, 2, dtype=dtype) * size * 0.3], dim=1
    )


def anchors(grid: tuple[int, int] = (12, 12), stride: int = 8) -> Tensor:
    return grid_anchors(anchor_shapes((12, 15, 19), RATIOS), grid, stride).double()


DEVICE_CASES = {
    "box_iou": lambda: (box_iou, (boxes(20), boxes(30))),
    "encode_boxes": lambda: (encode_boxes, (boxes(20), boxes(20))),
    "decode_boxes": lambda: (decode_boxes, (torch.randn(20, 4), boxes(20))),
}

# ---------------------------------------------------------------- against torchvision


@pytest.mark.parametrize("grid", [(5, 7), (1, 1), (16, 3)])
def test_anchors_equal_torchvisions(grid: tuple[int, int], evidence) -> None:
    sizes = {
        "RPN": [(32,), (64,), (128,)],
        "RetinaNet": [(s, int(s * 2 ** (1 / 3)), int(s * 4 ** (1 / 3))) for s in (32, 64, 128)],
        "one level": [(17, 40)],
    }  # fmt: skip
    pairs = {}
    for name, of_levels in sizes.items():
        strides = [8 * 2**i for i in range(len(of_levels))]
        levels = [torch.zeros(1, 1, *grid) for _ in strides]
        for level, (of_level, stride) in enumerate(
            zip(of_levels, strides, strict=True)
        ):
            image = (grid[0] * stride, grid[1] * stride)
            generator = AnchorGenerator((of_level,), (RATIOS,))
            images = ImageList(torch.zeros(1, 3, *image), [image])
            expected = generator(images, levels[level : level + 1])[0]
            shapes = anchor_shapes(of_level, RATIOS)
            ours = grid_anchors(shapes, grid, stride)
            pairs[f"{name}, level {level}"] = ours, expected
    comparison = difference(pairs, shape=list(grid), modes=list(sizes))
    if grid == (5, 7):
        evidence.equivalent(
            "anchors",
            comparison,
            reference="torchvision.models.detection.anchor_utils.AnchorGenerator",
        )


def test_the_code_of_a_box_and_its_slopes_equal_torchvisions(evidence) -> None:
    objects, chosen = boxes(40), anchors()[torch.randint(len(anchors()), (40,))]
    offsets = 3 * torch.randn(40, 4, dtype=torch.float64)  # some beyond the growth
    pairs, slopes = {}, {}
    for weights in (ONES, SECOND_STAGE):
        coder = theirs.BoxCoder(weights)
        for name, given, ours, expected in (
            ("encode", objects, encode_boxes, coder.encode_single),
            ("decode", offsets, decode_boxes, coder.decode_single),
        ):
            leaf = given.clone().requires_grad_()
            values = ours(leaf, chosen, weights), expected(leaf, chosen)
            key = f"{name}, weights {weights[0]:g} and {weights[2]:g}"
            pairs[key] = tuple(value.detach() for value in values)
            slopes[key] = tuple(
                torch.autograd.grad(value.square().sum(), leaf)[0] for value in values
            )
    evidence.equivalent(
        "code",
        difference(pairs, slopes, shape=[40, 4], modes=list(pairs)),
        reference="torchvision.models.detection._utils.BoxCoder",
    )


def test_overlaps_and_matches_equal_torchvisions(evidence) -> None:
    pairs = {}
    corners = boxes(9)[:, :2]
    alike = torch.tensor([[8.0, 8.0, 40.0, 40.0]]).double().repeat(2, 1)
    for name, objects in (
        ("40 objects", boxes(40)),
        ("1 object", boxes(1)),
        ("2 objects at one place", alike),
        ("tiny objects", corners.repeat(1, 2) + torch.tensor([0, 0, 2, 2])),
    ):
        inside = objects.clamp(0, 96)
        overlap = box_iou(inside, anchors())
        pairs[f"IoU, {name}"] = overlap, torchvision_iou(inside, anchors())
        for setting, (low, high, keep_best) in SETTINGS.items():
            matcher = theirs.Matcher(high, low, allow_low_quality_matches=keep_best)
            found = match_anchors(inside, anchors(), low, high, keep_best)
            pairs[f"{setting}, {name}"] = found, matcher(overlap)
    assert {-2, -1, 0} < set(pairs["RPN, 40 objects"][0].tolist())
    evidence.equivalent(
        "matches",
        difference(pairs, shape=[40, len(anchors())], modes=list(SETTINGS)),
        reference="torchvision.models.detection._utils.Matcher; torchvision.ops.box_iou",
    )


# ---------------------------------------------------------------- a second way


def pixels(box: list[int]) -> set[tuple[int, int]]:
    x1, y1, x2, y2 = box
    return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}


def whole_boxes(count: int, draw: torch.Generator) -> Tensor:
    corner = torch.randint(12, (count, 2), generator=draw)
    size = torch.randint(1, 9, (count, 2), generator=draw)
    return torch.cat([corner, corner + size], dim=1)


def test_iou_is_what_counting_pixels_gives() -> None:
    draw = torch.Generator().manual_seed(0)
    some, others = whole_boxes(12, draw), whole_boxes(15, draw)
    found = box_iou(some.double(), others.double())
    for i, a in enumerate(some.tolist()):
        for j, b in enumerate(others.tolist()):
            both, either = pixels(a) & pixels(b), pixels(a) | pixels(b)
            assert found[i, j] == len(both) / len(either)


@pytest.mark.parametrize("setting", SETTINGS)
def test_matches_are_what_loops_over_fractions_give(setting: str) -> None:
    """Ties included: small whole boxes have many."""
    low, high, keep_best = SETTINGS[setting]
    draw = torch.Generator().manual_seed(1)
    for _ in range(30):
        objects, places = whole_boxes(4, draw), whole_boxes(25, draw)
        iou = [
            [
                Fraction(len(pixels(o) & pixels(a)), len(pixels(o) | pixels(a)))
                for a in places.tolist()
            ]
            for o in objects.tolist()
        ]
        expected = []
        for j in range(len(places)):
            column = [row[j] for row in iou]
            best = max(column)
            kept = keep_best and any(row[j] == max(row) > 0 for row in iou)
            if kept or best >= Fraction(str(high)):
                expected.append(column.index(best))
            else:
                expected.append(-1 if best < Fraction(str(low)) else -2)
        found = match_anchors(
            objects.double(), places.double(), low, high, keep_best
        )  # fmt: skip
        assert found.tolist() == expected


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("weights", [ONES, SECOND_STAGE])
def test_decoding_undoes_encoding(weights: tuple[float, ...]) -> None:
    objects, chosen = boxes(100), boxes(100)
    code = encode_boxes(objects, chosen, weights)
    torch.testing.assert_close(decode_boxes(code, chosen, weights), objects)


def test_an_anchor_that_is_its_object_has_a_code_of_zeros() -> None:
    assert encode_boxes(boxes(5), boxes(5).clone()).abs().max() > 0
    same = boxes(5)
    assert encode_boxes(same, same).abs().max() == 0


def test_a_code_does_not_change_with_the_place_or_the_scale_of_the_picture() -> None:
    objects, chosen = boxes(50), boxes(50)
    code = encode_boxes(objects, chosen)
    moved = encode_boxes(3 * objects + 100, 3 * chosen + 100)
    torch.testing.assert_close(moved, code)


def test_one_code_serves_many_classes_at_once() -> None:
    offsets, chosen = torch.randn(6, 3, 4), boxes(6).float()
    together = decode_boxes(offsets, chosen[:, None])
    for k in range(3):
        torch.testing.assert_close(together[:, k], decode_boxes(offsets[:, k], chosen))


def test_no_box_grows_beyond_62_and_a_half_times_its_anchor() -> None:
    (anchor,) = torch.tensor([[0.0, 0.0, 8.0, 4.0]])
    offsets = torch.tensor([0.0, 0.0, 100.0, 100.0])
    size = centre_and_size(decode_boxes(offsets, anchor))[1]
    torch.testing.assert_close(size, torch.tensor([500.0, 250.0]))


def test_iou_is_symmetric_between_0_and_1_and_1_only_with_itself() -> None:
    some = boxes(40)
    overlap = box_iou(some, some)
    torch.testing.assert_close(overlap, overlap.T)
    assert overlap.min() == 0
    torch.testing.assert_close(overlap.diag(), torch.ones(40).double())
    assert (overlap - torch.eye(40)).max() < 1


def test_shapes_have_the_areas_and_ratios_that_were_asked_for() -> None:
    shapes = anchor_shapes((64, 128), (0.5, 1.0, 2.0))
    centre, size = centre_and_size(shapes)
    assert centre.abs().max() == 0
    ratio = torch.tensor([0.5, 1.0, 2.0]).repeat_interleave(2)
    torch.testing.assert_close(size[:, 1] / size[:, 0], ratio, rtol=0.03, atol=0)
    root = torch.tensor([64.0, 128.0]).repeat(3)
    torch.testing.assert_close(size.prod(1).sqrt(), root, rtol=0.03, atol=0)


def test_cells_lie_a_stride_apart_row_after_row() -> None:
    shapes = anchor_shapes((12,), (1.0, 2.0))
    grid = grid_anchors(shapes, (3, 4), 8).view(3, 4, 2, 4)
    step = torch.tensor([8.0, 0.0, 8.0, 0.0])
    assert (grid[:, 1:] - grid[:, :-1] == step).all()
    assert (grid[1:] - grid[:-1] == step.roll(1)).all()
    assert torch.equal(grid[0, 0], shapes)


def test_every_object_that_an_anchor_touches_keeps_one_unless_told_otherwise() -> None:
    tiny = torch.tensor([[31.0, 31.0, 33.0, 33.0], [50.0, 40.0, 52.0, 43.0]]).double()
    assert {0, 1} <= set(match_anchors(tiny, anchors()).tolist())
    assert set(match_anchors(tiny, anchors(), keep_best=False).tolist()) == {-1}
    # One outside the image takes none; torchvision's would take all.
    assert set(match_anchors(tiny + 1000, anchors()).tolist()) == {-1}


def test_an_image_without_objects_is_background() -> None:
    assert match_anchors(torch.zeros(0, 4), anchors()).unique().tolist() == [-1]
    assert encode_boxes(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0, 4)


def test_refuses_what_makes_no_anchor_and_thresholds_in_the_wrong_order() -> None:
    for sizes, ratios in (((), (1.0,)), ((8,), ()), ((8, 0), (1.0,)), ((8,), (-1.0,))):
        with pytest.raises(ValueError, match=r"expected sizes and ratios above 0, got"):
            anchor_shapes(sizes, ratios)
    with pytest.raises(ValueError, match=r"got low=0.5, high=0.4"):
        match_anchors(boxes(2), anchors(), 0.5, 0.4)


# ---------------------------------------------------------------- numbers


def test_how_well_the_anchors_of_a_level_cover_objects(evidence) -> None:
    """The best overlap with an object of each form, at its worst place on the grid."""
    stride = 8
    sets = {
        "one": ("One size, one ratio", (32,), (1.0,)),
        "three": ("One size, three ratios", (32,), RATIOS),
        "nine": ("Three sizes, three ratios", (32, 40, 50), RATIOS),
    }
    forms = {"square": (32, 32), "larger": (45, 45), "upright": (23, 45), "narrow": (16, 64)}  # fmt: skip
    y, x = torch.meshgrid(torch.arange(stride), torch.arange(stride), indexing="ij")
    places = torch.stack([x, y, x, y], dim=-1).view(-1, 4) + 80
    rows = {}
    for key, (name, sizes, ratios) in sets.items():
        shapes = anchor_shapes(sizes, ratios)
        grid = grid_anchors(shapes, (24, 24), stride).double()
        rows[key] = {"name": name, "anchors": len(shapes)}
        for form, (w, h) in forms.items():
            half = torch.tensor([-w, -h, w, h]).double() / 2
            best = box_iou(places + half, grid).max(dim=1).values
            rows[key][form] = best.min().item()
    assert rows["one"]["narrow"] < 0.5 < rows["three"]["narrow"]
    assert rows["three"]["larger"] + 0.1 < rows["nine"]["larger"]
    evidence.computed("cover", rows)
