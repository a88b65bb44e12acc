"""TODO why EfficientDet and BiFPN is right.

TODO a family with a reference: list its variants as `cnn_site.variants.Variant` and
declare `network_proof`, as tests/modern/test_resnet.py does; then this comparison goes.
"""

import pytest
import torch
from torch import Tensor, nn

from cnn_site.equivalence import compare
from cnn_site.laws import gradient_reaches_every_parameter
from cnn_techniques.detection import EfficientDetAndBiFPN
from cnn_techniques.evaluation import model_cost

DEVICE_CASES = {"EfficientDetAndBiFPN": lambda: (EfficientDetAndBiFPN(10), (torch.randn(2, 3, 48, 64),))}
IMAGES = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))


class Reference(nn.Module):
    """TODO import published parameter counts D0 to D7 instead, or write the paper's layer table a second way."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(self.body(x), 1)[..., 0, 0])


def test_equals_the_reference(evidence) -> None:
    comparison = compare(EfficientDetAndBiFPN(10), Reference(), IMAGES, match="order")
    evidence.equivalent(
        "network", comparison, reference="TODO", settings="parameters paired by order"
    )


# TODO the laws
def test_gradients_reach_every_parameter() -> None:
    gradient_reaches_every_parameter(EfficientDetAndBiFPN(10), IMAGES)


@pytest.mark.parametrize(("classes", "width"), [(0, 32), (10, 0)])
def test_refuses_less_than_one(classes: int, width: int) -> None:
    with pytest.raises(ValueError, match=f"num_classes={classes}, width={width}"):
        EfficientDetAndBiFPN(classes, width)


def test_cost(evidence) -> None:
    with torch.device("meta"):
        cost = model_cost(EfficientDetAndBiFPN().eval(), torch.empty(1, 3, 224, 224))
    row = {"name": "EfficientDet and BiFPN", "params": cost.params, "macs": cost.macs}
    evidence.computed("cost", {"network": row})
