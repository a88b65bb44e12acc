import base64
import runpy
import zlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import center_crop

from cnn_lab.data import scenes
from cnn_lab.fit import fit, predict, steps
from cnn_lab.record import interval, repeat
from cnn_lab.scene_trial import learn_masks, scene_trials
from cnn_site.equivalence import compare
from cnn_techniques.evaluation import model_cost
from cnn_techniques.segmentation import UNet

DEVICE_CASES = {
    "UNet, unpadded": lambda: (UNet(2, 3, width=4), (torch.randn(2, 2, 204, 188),)),
    "UNet, padding=1": lambda: (
        UNet(2, 3, width=4, padding=1),
        (torch.randn(2, 2, 48, 32),),
    ),
}
FIGURE = Path(__file__).parents[2] / "snippets/segmentation/figures/u_net.py"


def sizes(net: UNet, side: int) -> dict[str, list[tuple[int, int]]]:
    """(channels, side) of each convolution's map, by forward hooks on the meta device."""
    seen: dict[str, list[tuple[int, int]]] = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            part = name.split(".")[0]
            module.register_forward_hook(
                lambda _m, _x, y, part=part: seen.setdefault(part, []).append(
                    (y.shape[1], y.shape[3])
                )
            )
    net(torch.empty(1, net.in_channels, side, side, device="meta"))
    return seen


@pytest.fixture
def paper() -> UNet:
    with torch.device("meta"):
        return UNet()


def test_every_map_of_the_papers_figure_1_has_its_size(paper: UNet) -> None:
    assert sizes(paper, 572) == {
        "contracting": [
            (64, 570), (64, 568), (128, 282), (128, 280), (256, 138), (256, 136), (512, 66), (512, 64),
        ],
        "bottom": [(1024, 30), (1024, 28)],
        "up": [(512, 56), (256, 104), (128, 200), (64, 392)],
        "expanding": [
            (512, 54), (512, 52), (256, 102), (256, 100), (128, 198), (128, 196), (64, 390), (64, 388),
        ],
        "classify": [(2, 388)],
    }  # fmt: skip


def test_it_has_the_papers_23_convolutional_layers_and_parameters_of_figure_1(
    paper: UNet,
) -> None:
    weights = [p for p in paper.parameters() if p.ndim == 4]
    assert (
        len(weights) == 23
    )  # section 2: "In total the network has 23 convolutional layers."
    f = [64, 128, 256, 512, 1024]
    down = sum(9 * a * b + 9 * b * b + 2 * b for a, b in zip([1, *f], f, strict=False))
    up = sum(4 * 2 * b * b + b + 9 * 2 * b * b + 9 * b * b + 2 * b for b in f[:4])
    assert (
        sum(p.numel() for p in paper.parameters())
        == down + up + 64 * 2 + 2
        == 31_030_658
    )


def test_costs_on_the_page(evidence) -> None:
    rows = {}
    for key, name, width, padding, side in [
        ("paper", "paper", 64, 0, 572),
        ("padded", "padding=1", 64, 1, 512),
        ("half", "width=32", 32, 0, 572),
        ("narrow", "width=8, padding=1", 8, 1, 64),
    ]:
        with torch.device("meta"):
            net, x = UNet(width=width, padding=padding), torch.empty(1, 1, side, side)
        cost, out = model_cost(net, x), net(x).shape[3]
        rows[key] = {
            "name": name, "input": f"1 × {side} × {side}", "output": f"2 × {out} × {out}",
            "params": cost.params, "macs": cost.macs,
        }  # fmt: skip
    evidence.computed("cost", rows)


class Restated(nn.Module):
    """Figure 1 as a list of steps on a dict of weights: no module, no pooling, no up-convolution of torch's."""

    def __init__(self, channels: int, classes: int, width: int, padding: int) -> None:
        super().__init__()
        f = [width * 2**k for k in range(5)]
        shapes = []
        for a, b in zip([channels, *f[:4]], f, strict=True):
            shapes += [(b, a, 3, 3), (b,), (b, b, 3, 3), (b,)]
        shapes += [s for b in f[3::-1] for s in ((2 * b, b, 2, 2), (b,))]
        for b in f[3::-1]:
            shapes += [(b, 2 * b, 3, 3), (b,), (b, b, 3, 3), (b,)]
        shapes += [(classes, width, 1, 1), (classes,)]
        for k, shape in enumerate(shapes):
            self.register_parameter(
                f"bias{k}" if len(shape) == 1 else f"weight{k}",
                nn.Parameter(torch.zeros(shape)),
            )
        self.padding = padding

    def double(self, x: Tensor, k: int) -> Tensor:
        p = list(self.parameters())
        for j in (k, k + 2):
            x = F.conv2d(x, p[j], p[j + 1], padding=self.padding).clamp(min=0)
        return x

    def forward(self, x: Tensor) -> Tensor:
        maps, p = [], list(self.parameters())
        for level in range(5):
            maps.append(self.double(x, 4 * level))
            n, c, h, w = maps[-1].shape
            x = (
                maps[-1][..., : h // 2 * 2, : w // 2 * 2]
                .reshape(n, c, h // 2, 2, w // 2, 2)
                .amax(dim=(3, 5))
            )
        y = maps.pop()
        for level in range(4):
            weight, bias = p[20 + 2 * level : 22 + 2 * level]
            n, _, h, w = y.shape
            y = torch.einsum("ncij,cokl->noikjl", y, weight).reshape(
                n, -1, 2 * h, 2 * w
            )
            y = y + bias[:, None, None]
            copy = center_crop(maps.pop(), [2 * h, 2 * w])
            y = self.double(torch.cat([copy, y], dim=1), 28 + 4 * level)
        return (
            torch.einsum("nchw,kc->nkhw", y, p[-2][:, :, 0, 0]) + p[-1][:, None, None]
        )


@pytest.mark.parametrize(("padding", "size"), [(0, (188, 204)), (1, (32, 48))])
def test_it_equals_figure_1_restated_as_a_list_of_steps(
    evidence, padding: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    result = compare(
        UNet(2, 3, width=2, padding=padding),
        Restated(2, 3, width=2, padding=padding),
        torch.randn(2, 2, *size),
        match="order",
    )
    evidence.equivalent(
        "unpadded" if padding == 0 else "padded",
        result,
        reference="figure 1 of the paper, restated as a list of steps in the proof file",
        settings=f"padding={padding}, width=2",
    )


def test_unpadded_predictions_move_with_the_image_by_16_pixels() -> None:
    torch.manual_seed(0)
    net, x = UNet(width=2).double(), torch.randn(1, 1, 220, 204, dtype=torch.float64)
    whole = net(x)
    torch.testing.assert_close(net(x[:, :, 16:, :188]), whole[:, :, 16:, :4])
    torch.testing.assert_close(net(x[:, :, 32:, 16:]), whole[:, :, 32:, 16:])


def test_by_8_pixels_they_do_not_since_a_pooling_grid_lies_elsewhere() -> None:
    torch.manual_seed(0)
    net, x = UNet(width=2).double(), torch.randn(1, 1, 212, 188, dtype=torch.float64)
    a, b = net(x[:, :, :204]), net(x[:, :, 8:])
    assert (a[:, :, 8:] - b[:, :, :-8]).abs().max() > 1e-3 * a.abs().max()


def test_padded_predictions_of_a_tile_differ_from_those_of_the_whole_image_near_its_border() -> (
    None
):
    torch.manual_seed(0)
    net, x = (
        UNet(width=2, padding=1).double(),
        torch.randn(1, 1, 32, 96, dtype=torch.float64),
    )
    apart = (net(x)[..., :48] - net(x[..., :48])).abs().amax(dim=(0, 1, 2))
    assert apart[-1] > 1e-3


def test_the_copy_is_cropped_from_the_middle_so_that_it_lies_over_the_upsampled_map() -> (
    None
):
    torch.manual_seed(0)
    net = UNet(1, 1, width=1)
    with torch.no_grad():  # only the copy of the first level, through centre weights of 1, reaches the output
        for p in net.parameters():
            p.zero_()
        net.contracting[0][0].weight[0, 0, 1, 1] = net.contracting[0][2].weight[
            0, 0, 1, 1
        ] = 1
        net.expanding[3][0].weight[0, 0, 1, 1] = net.expanding[3][2].weight[
            0, 0, 1, 1
        ] = 1
        net.classify.weight.fill_(1)
    x = torch.rand(1, 1, 204, 188)
    torch.testing.assert_close(net(x), center_crop(x, [20, 4]))


def test_a_score_sees_188_or_204_pixels_in_each_direction(evidence) -> None:
    torch.manual_seed(0)
    net = UNet(width=1).double()
    with torch.no_grad():
        for p in net.parameters():  # all positive, so that no ReLU hides a pixel
            p.abs_() if p.ndim == 4 else p.fill_(0.1)
    x = torch.rand(1, 1, 236, 188, dtype=torch.float64, requires_grad=True)
    scores, seen = net(x)[0, 0, :, 0], []
    for score in scores[16:32]:
        (g,) = torch.autograd.grad(score, x, retain_graph=True)
        rows = g.abs().sum(dim=(0, 1, 3)).nonzero()[:, 0]
        seen.append(int(rows.max() - rows.min()) + 1)
    assert set(seen) == {188, 204}
    evidence.computed(
        "field", {"paper": {"name": "unpadded", "least": min(seen), "most": max(seen)}}
    )


def test_variance_keeps_its_size_through_the_net_at_initialisation() -> None:
    torch.manual_seed(0)
    net, seen = UNet(width=32), []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(
                lambda _m, x, y: seen.append((x[0].square().mean(), y.var()))
            )
    with torch.no_grad():
        net(torch.randn(1, 1, 188, 188))
    # Section 3: with N(0, 2 / n), a layer's output varies as much as twice its input's mean square.
    for before, after in seen[:10]:
        assert 0.5 < after / (2 * before) < 2


@pytest.mark.parametrize(("padding", "side"), [(0, 188), (1, 16)])
def test_gradients_reach_every_parameter_and_every_pixel(
    padding: int, side: int
) -> None:
    torch.manual_seed(0)
    net = UNet(2, 3, width=8, padding=padding).double()
    x = torch.randn(2, 2, side, side, dtype=torch.float64, requires_grad=True)
    net(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
    assert (x.grad != 0).double().mean() > 0.9


@pytest.mark.parametrize(("padding", "side", "near"), [
    (0, 572 - 1, "556 or 572"), (0, 512, "508 or 524"), (0, 64, "188 or 204"), (1, 100, "96 or 112"), (1, 8, "16 or 32"),
])  # fmt: skip
def test_a_size_that_does_not_work_is_refused_with_the_nearest_that_do(
    padding: int, side: int, near: str
) -> None:
    with torch.device("meta"):
        net = UNet(width=2, padding=padding)
        with pytest.raises(ValueError, match=near):
            net(torch.empty(1, 1, net.smallest, side))
        for good in map(int, near.split(" or ")):
            assert net(torch.empty(1, 1, net.smallest, good)).shape[3] == good - (
                0 if padding else 184
            )


def test_other_wrong_arguments_and_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match="width=0"):
        UNet(width=0)
    with pytest.raises(ValueError, match="padding=2"):
        UNet(padding=2)
    with pytest.raises(
        ValueError, match=r"expected \(N, 3, H, W\), got \(1, 1, 188, 188\)"
    ):
        UNet(3, width=1)(torch.zeros(1, 1, 188, 188))
    with pytest.raises(ValueError, match=r"got \(1, 188, 188\)"):
        UNet(width=1)(torch.zeros(1, 188, 188))


def test_the_figures_labels_are_the_shapes_that_the_paper_size_net_computes(
    paper: UNet,
) -> None:
    drawn, seen = runpy.run_path(str(FIGURE)), sizes(paper, 572)

    def level(box) -> tuple[int, int]:
        return int(box.label.split()[0]), int(box.sub.split(" × ")[0])

    assert [level(b) for b in drawn["contracting"]] == seen["contracting"][1::2]
    assert [level(drawn["bottom"])] == seen["bottom"][1:]
    assert [level(b) for b in drawn["expanding"][::-1]] == seen["expanding"][1::2]
    assert drawn["image"].sub == "1 × 572 × 572"
    assert drawn["scores"].sub == "{} × {} × {}".format(*seen["classify"][0], 388)


def segment_scenes(
    size: int,
    objects: list[int],
    side: list[float],
    train: int,
    epochs: int,
    lr: float,
    seed: int,
) -> dict[str, object]:
    """Train a narrow padded U-Net on scenes of digits; look at scenes of scans that no training scene holds."""
    from torchmetrics.classification import MulticlassJaccardIndex

    kind = {"objects": tuple(objects), "side": tuple(side)}
    seen = scenes(train, size, seed=seed, **kind)
    unseen = scenes(200, size, seed=0, split="test", **kind)
    torch.manual_seed(seed)
    net = UNet(in_channels=1, classes=11, width=8, padding=1)
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-4)
    count = steps(train, epochs=epochs, batch_size=8)
    weight = torch.tensor([0.2] + 10 * [1.0])  # most pixels are background

    def normal(images: Tensor) -> Tensor:
        return (images - 0.35) / 0.2

    def look(net: nn.Module) -> dict[str, object]:
        predicted = predict(net, normal(unseen.images), 50).argmax(dim=1)
        each = MulticlassJaccardIndex(11, average=None)(predicted, unseen.masks)
        packed = zlib.compress(predicted[:4].byte().numpy().tobytes(), 9)
        return {
            "iou": each.mean().item(),
            "ious": each.tolist(),
            "pixels": (predicted == unseen.masks).double().mean().item(),
            "first": base64.b64encode(packed).decode(),
        }

    history = fit(
        net,
        (normal(seen.images), seen.masks),
        epochs=epochs,
        batch_size=8,
        optimizer=optimizer,
        schedule=torch.optim.lr_scheduler.OneCycleLR(
            optimizer, lr, total_steps=count, pct_start=0.2
        ),
        loss=lambda net, x, y: F.cross_entropy(net(x), y, weight=weight),
        evaluate=look,
        seed=seed,
    )
    return {**history[-1], "curve": [row["iou"] for row in history]}


def scenes_of_digits(seeds: int, **settings: object) -> dict[str, object]:
    """Mean IoU over the eleven classes, background included, for each seed; the first scenes as seed 0 labels them."""
    cache = Path(__file__).parents[2] / ".cache/record/u_net.jsonl"
    runs = repeat(segment_scenes, {"unet": settings}, range(seeds), cache)["unet"]

    def spread(values: list[float]) -> dict[str, object]:
        return {"values": values, **interval(values)}

    rows = {
        "unet": {
            "name": "U-Net, width 8, padded",
            "iou": spread([run["iou"] for run in runs]),
            "pixels": spread([run["pixels"] for run in runs]),
            "background": spread([run["ious"][0] for run in runs]),
            "least": spread([min(run["ious"]) for run in runs]),
            "curve": [run["curve"] for run in runs],
        }
    }
    return {"arms": rows, "first": runs[0]["first"]}


@pytest.mark.record
def test_a_narrow_u_net_learns_to_label_the_pixels_of_scenes(evidence) -> None:
    evidence.measured(
        "scenes",
        arguments={
            "size": 64,
            "objects": [6, 9],
            "side": [0.2, 0.26],
            "train": 1600,
            "epochs": 8,
            "lr": 5e-3,
            "seeds": 5,
        },
        run=scenes_of_digits,
    )


def learn_trial(learning_rate: float, seed: int) -> dict[str, object]:
    torch.manual_seed(seed)
    net = UNet(in_channels=3, classes=11, width=8, padding=1)
    return learn_masks(net, learning_rate=learning_rate, seed=seed)


def trial(seeds: list[int], learning_rate: float) -> dict[str, object]:
    cache = Path(__file__).parents[2] / ".cache/record/u_net_trial.jsonl"
    arms = {"u_net": ("U-Net, width 8, padded", {"learning_rate": learning_rate})}
    return scene_trials(learn_trial, seeds, cache, arms)


@pytest.mark.record
def test_it_learns_the_scenes_of_all_segmenters(evidence) -> None:
    evidence.measured(
        "trial", arguments={"seeds": [0, 1, 2], "learning_rate": 5e-3}, run=trial
    )
