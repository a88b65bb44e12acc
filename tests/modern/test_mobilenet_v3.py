"""Why MobileNet v3 is right."""

import torch

from cnn_site.equivalence import compare
from cnn_techniques.modern import MobileNetV3

DEVICE_CASES = {"MobileNetV3": lambda: (MobileNetV3(64), (torch.randn(2, 64, 9, 7),))}


def test_equals_the_reference(evidence) -> None:
    images = torch.randn(2, 64, 9, 7)
    comparison = compare(MobileNetV3(64), reference, images)  # noqa: F821
    evidence.equivalent(
        "block",
        comparison,
        reference="torchvision.ops.MobileNetV3",
        settings="defaults",
    )
