"""Why ShuffleNet v2 is right."""

import torch

from cnn_site.equivalence import compare
from cnn_techniques.modern import ShuffleNetV2

DEVICE_CASES = {"ShuffleNetV2": lambda: (ShuffleNetV2(64), (torch.randn(2, 64, 9, 7),))}


def test_equals_the_reference(evidence) -> None:
    images = torch.randn(2, 64, 9, 7)
    comparison = compare(ShuffleNetV2(64), reference, images)  # noqa: F821
    evidence.equivalent(
        "block",
        comparison,
        reference="torchvision.ops.ShuffleNetV2",
        settings="defaults",
    )
