"""Why ConvNeXt V2 is right."""

import torch

from cnn_site.equivalence import compare
from cnn_techniques.modern import ConvNeXtV2

DEVICE_CASES = {"ConvNeXtV2": lambda: (ConvNeXtV2(64), (torch.randn(2, 64, 9, 7),))}


def test_equals_the_reference(evidence) -> None:
    images = torch.randn(2, 64, 9, 7)
    comparison = compare(ConvNeXtV2(64), reference, images)  # noqa: F821
    evidence.equivalent(
        "block", comparison, reference="torchvision.ops.ConvNeXtV2", settings="defaults"
    )
