"""Why VGGNet is right."""

import torch

from cnn_site.equivalence import compare
from cnn_techniques.foundations import VGGNet

DEVICE_CASES = {"VGGNet": lambda: (VGGNet(64), (torch.randn(2, 64, 9, 7),))}


def test_equals_the_reference(evidence) -> None:
    images = torch.randn(2, 64, 9, 7)
    comparison = compare(VGGNet(64), reference, images)  # noqa: F821
    evidence.equivalent(
        "block", comparison, reference="torchvision.ops.VGGNet", settings="defaults"
    )
