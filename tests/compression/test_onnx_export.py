"""The file answers as the network does, for any batch and every output, and says what its user has to know."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from cnn_lab import bench_trained, networks, transfer
from cnn_lab.data import digits
from cnn_site.equivalence import FLOAT32_BOUND, difference
from cnn_techniques import foundations, modern, segmentation
from cnn_techniques.compression import export_onnx, onnx_difference

NO_DEVICE_CASES = "it writes a file"


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


def images(*sizes: int, channels: int = 3, side: int = 12) -> list[Tensor]:
    draw = torch.Generator().manual_seed(1)
    return [torch.randn(n, channels, side, side + 2, generator=draw) for n in sizes]


def answered(path: Path, batch: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": batch.numpy()})
    return [torch.from_numpy(value) for value in found]


class Several(nn.Module):
    """Scores, and maps of another size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return self.head(y.mean((2, 3))), y


def test_every_output_is_that_of_the_network_for_every_size_of_batch(
    tmp_path: Path, evidence
) -> None:
    torch.manual_seed(0)
    model, path = Several().eval(), tmp_path / "model.onnx"
    export_onnx(model, *images(2), path, outputs=("scores", "maps"))
    pairs = {}
    with torch.no_grad():
        for batch in images(1, 2, 7):
            for name, ours, theirs in zip(
                ("scores", "maps"), answered(path, batch), model(batch), strict=True
            ):
                pairs[f"{name} of {len(batch)}"] = (ours, theirs)
    comparison = difference(pairs, bound=FLOAT32_BOUND, shape=[7, 3, 12, 14])
    evidence.equivalent(
        "onnx",
        comparison,
        reference="the network itself, run by PyTorch",
        settings="onnxruntime, opset 18, two outputs, batches of 1, 2 and 7",
    )
    names = [o.name for o in onnx.load(path).graph.output]
    assert names == ["scores", "maps"]


def test_the_difference_is_the_largest_of_all_outputs_as_a_share(
    tmp_path: Path,
) -> None:
    model, path = Several().eval(), tmp_path / "model.onnx"
    export_onnx(model, *images(2), path, outputs=("scores", "maps"))
    assert onnx_difference(path, model, images(1, 3)) < 1e-6
    with torch.no_grad():
        model.head.bias += 0.01  # the file knows nothing of it
        largest = model(images(3)[0])[0].abs().max()
    apart = onnx_difference(path, model, images(3))
    assert apart == pytest.approx(0.01 / float(largest), rel=1e-3)
    model.conv.weight.data[0, 0, 0, 0] = float("nan")
    assert math.isnan(onnx_difference(path, model, images(3)))
    with pytest.raises(ValueError, match="expected a batch or more"):
        onnx_difference(path, model, [])


def test_the_file_names_its_opset_its_metadata_and_no_path(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for opset in (18, 20):
        export_onnx(network(), *images(2), path, metadata={"classes": ["a", "b"]}, opset=opset)  # fmt: skip
        model = onnx.load(path)
        assert [(s.domain, s.version) for s in model.opset_import] == [("", opset)]
        known = {p.key: json.loads(p.value) for p in model.metadata_props}
        assert known == {"classes": ["a", "b"]}
        first = model.graph.input[0].type.tensor_type.shape.dim
        assert (first[0].dim_param, first[1].dim_value) == ("batch", 3)
    assert __file__.encode() not in path.read_bytes()
    assert b"onnx_export" not in path.read_bytes()


def test_training_mode_one_image_and_names_that_are_too_few_are_refused(
    tmp_path: Path,
) -> None:
    path = tmp_path / "model.onnx"
    with pytest.raises(ValueError, match="Sequential in evaluation mode, got training"):
        export_onnx(network().train(), *images(2), path)
    with pytest.raises(ValueError, match=r"N > 1, got \(1, 3, 12, 14\)"):
        export_onnx(network(), *images(1), path)
    with pytest.raises(ValueError, match=r"names of 2 outputs, got \['scores'\]"):
        export_onnx(Several().eval(), *images(2), path)
    assert not path.exists()


# ---------------------------------------------------------------- real images


def lite0() -> nn.Module:
    state = transfer._lite0().state
    model = networks.build("efficientnet_lite0", 1000)
    model.load_state_dict(state)
    return model.eval()


def photographs() -> Tensor:
    """A cat, a cup of coffee and a rocket as EfficientNet-Lite0 wants them."""
    from skimage.data import chelsea, coffee, rocket

    prepared = []
    for read in (chelsea, coffee, rocket):
        photo = torch.from_numpy(read().copy()).permute(2, 0, 1)[None].float()
        side = min(photo.shape[2:])
        top, left = ((length - side) // 2 for length in photo.shape[2:])
        square = photo[:, :, top : top + side, left : left + side]
        prepared.append(
            F.interpolate(square, (224, 224), mode="bilinear", antialias=True)
        )
    return (torch.cat(prepared) - 127) / 128


@pytest.mark.slow
def test_published_weights_answer_alike_on_photographs(
    tmp_path: Path, evidence
) -> None:
    model, photos, path = lite0(), photographs(), tmp_path / "model.onnx"
    export_onnx(model, torch.randn(2, 3, 224, 224), path)
    with torch.no_grad():
        expected = model(photos)
    (found,) = answered(path, photos)
    assert expected.argmax(1).tolist() == [
        282,
        967,
        657,
    ]  # tiger cat, espresso, missile
    assert found.argmax(1).tolist() == [282, 967, 657]
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_scores_of_digits_are_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, path = foundations.LeNet5().eval(), tmp_path / "model.onnx"
    export_onnx(model, torch.randn(2, 1, 32, 32), path)
    scans, _ = digits("test", 32)
    (found,) = answered(path, scans)
    with torch.no_grad():
        expected = model(scans)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "alexnet": (foundations.alexnet, 96),
    "googlenet": (foundations.googlenet, 96),
    "densenet": (modern.densenet121, 64),
    "efficientnet": (modern.efficientnet_b0, 64),
    "convnext": (modern.convnext_tiny, 64),
    "vision transformer": (modern.vit_b_16, 224),
    "fcn": (lambda: segmentation.fcn_resnet50(num_classes=5), 64),
    "segformer": (lambda: segmentation.segformer_b0(num_classes=5), 64),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_other_kinds_are_exported(name: str, tmp_path: Path) -> None:
    make, side = NETWORKS[name]
    torch.manual_seed(0)
    model, path = make().eval(), tmp_path / "model.onnx"
    example = torch.randn(2, 3, side, side)
    with torch.no_grad():
        count = len(tree_leaves(model(example)))
    export_onnx(model, example, path, outputs=[f"out{i}" for i in range(count)])
    assert onnx_difference(path, model, [example, example[:1]]) < 1e-4


def test_the_file_is_as_large_as_the_weights_and_has_no_batch_norm(
    evidence, tmp_path: Path
) -> None:
    model, path = bench_trained.untrained(0).eval(), tmp_path / "model.onnx"
    export_onnx(model, torch.randn(2, 1, 28, 28), path)
    params = sum(p.numel() for p in model.parameters())
    assert 4 * params * 0.97 < path.stat().st_size < 4 * params * 1.3
    nodes = onnx.load(path).graph.node
    assert "BatchNormalization" not in {node.op_type for node in nodes}
    row = {"name": "the bench's network", "params": params, "nodes": len(nodes)}
    evidence.computed("file", {"bench": row})
