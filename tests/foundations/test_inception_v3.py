"""Why Inception-v2 and v3 is right."""

import torch

from cnn_site.equivalence import compare
from cnn_techniques.foundations import InceptionV2AndV3

DEVICE_CASES = {
    "InceptionV2AndV3": lambda: (InceptionV2AndV3(64), (torch.randn(2, 64, 9, 7),))
}


def test_equals_the_reference(evidence) -> None:
    images = torch.randn(2, 64, 9, 7)
    comparison = compare(InceptionV2AndV3(64), reference, images)  # noqa: F821
    evidence.equivalent(
        "block",
        comparison,
        reference="torchvision.ops.InceptionV2AndV3",
        settings="defaults",
    )
