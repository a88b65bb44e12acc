"""Why Vision Transformer is right."""

import torch

from cnn_site.equivalence import compare
from cnn_techniques.modern import VisionTransformer

DEVICE_CASES = {
    "VisionTransformer": lambda: (VisionTransformer(64), (torch.randn(2, 64, 9, 7),))
}


def test_equals_the_reference(evidence) -> None:
    images = torch.randn(2, 64, 9, 7)
    comparison = compare(VisionTransformer(64), reference, images)  # noqa: F821
    evidence.equivalent(
        "block",
        comparison,
        reference="torchvision.ops.VisionTransformer",
        settings="defaults",
    )
