"""Why Inception-v4 and Inception-ResNet is right."""

import torch

from cnn_site.equivalence import compare
from cnn_techniques.foundations import InceptionV4AndInceptionResNet

DEVICE_CASES = {
    "InceptionV4AndInceptionResNet": lambda: (
        InceptionV4AndInceptionResNet(64),
        (torch.randn(2, 64, 9, 7),),
    )
}


def test_equals_the_reference(evidence) -> None:
    images = torch.randn(2, 64, 9, 7)
    comparison = compare(InceptionV4AndInceptionResNet(64), reference, images)  # noqa: F821
    evidence.equivalent(
        "block",
        comparison,
        reference="torchvision.ops.InceptionV4AndInceptionResNet",
        settings="defaults",
    )
