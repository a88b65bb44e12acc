"""A network as a file that other programs run: its graph of operators, and its weights.

Source: ONNX, "Open Neural Network Exchange Intermediate Representation (ONNX IR)
Specification"; torch.onnx.export with dynamo=True, which records the graph by running
the network on symbols instead of numbers.
Legend: N images of a batch.
"""

# --8<-- [start:imports]
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

# --8<-- [end:imports]


# --8<-- [start:module]
def export_onnx(
    network: nn.Module,
    images: Tensor,
    path: Path,
    *,
    outputs: Sequence[str] = ("scores",),
    metadata: Mapping[str, Any] | None = None,
    opset: int = 18,
) -> None:
    """Write a network of images as one ONNX file in which the batch may have any size.

    Args:
        network: in evaluation mode; it gives one tensor, or several in a fixed order.
        images: an example (N, C, H, W) with N of 2 or more: an N of 1 may be taken for
            a rule.
        outputs: the names of what it gives.
        metadata: what a user of the file has to know, written as JSON: classes, mean.
        opset: the version of ONNX's operators, which a runtime must know.

    Raises: ValueError for training mode, a single image, or another number of outputs.
    """
    if any(module.training for module in network.modules()):
        kind = type(network).__name__
        raise ValueError(f"expected {kind} in evaluation mode, got training mode")
    if images.ndim != 4 or images.shape[0] < 2:
        given = tuple(images.shape)
        raise ValueError(f"expected images (N, C, H, W) with N > 1, got {given}")
    with torch.no_grad():
        count = len(tree_leaves(network(images)))
    if count != len(outputs):
        raise ValueError(f"expected names of {count} outputs, got {list(outputs)}")
    # --8<-- [start:step]
    program = torch.onnx.export(
        network,
        (images,),
        input_names=["images"],
        output_names=list(outputs),
        dynamic_shapes=({0: "batch"},),
        opset_version=opset,
        dynamo=True,
        verbose=False,
    )
    # --8<-- [end:step]
    assert program is not None
    model = program.model
    for node in [*model.graph, model.graph]:  # every line of code, with its path
        node.metadata_props.clear()
    known = {name: json.dumps(value) for name, value in (metadata or {}).items()}
    model.metadata_props.update(known)
    program.save(path, external_data=False)


@torch.no_grad()
def onnx_difference(path: Path, network: nn.Module, batches: Iterable[Tensor]) -> float:
    """How far a file's answers are from the network's, as ONNX Runtime gives them.

    Returns: the largest difference of an output, as a share of its largest entry.
    Raises: ValueError without a batch; onnx's and onnxruntime's for a wrong file.
    """
    import onnx
    import onnxruntime

    onnx.checker.check_model(path, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(path, options, providers=providers)
    ours: list[list[Tensor]] = []
    theirs: list[list[Tensor]] = []
    for images in batches:
        ours.append(tree_leaves(network(images)))
        found = session.run(None, {"images": images.numpy()})
        theirs.append([torch.from_numpy(value) for value in found])
    if not ours:
        raise ValueError("expected a batch or more to compare with, got none")
    gaps = []
    for place in range(len(ours[0])):
        expected = torch.cat([outputs[place] for outputs in ours])
        given = torch.cat([outputs[place] for outputs in theirs])
        gaps.append((given - expected).abs().max() / expected.abs().max())
    return torch.stack(gaps).max().item()


# --8<-- [end:module]
