"""The code of the guide to medical and satellite images, against what is computed the long way."""

import runpy

import numpy as np
import pytest
import torch
from torch import nn

from cnn_site import ROOT

GUIDE = runpy.run_path(str(ROOT / "snippets/guides/medical_and_satellite_images.py"))


def test_tiles_equal_the_whole_image_with_the_margin_of_the_receptive_field() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 5, padding=2), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)
    ).double()
    for height, width, size in ((17, 33, 8), (8, 8, 8), (5, 40, 16)):
        image = torch.rand(2, 3, height, width, dtype=torch.float64)
        whole = network(image)
        torch.testing.assert_close(GUIDE["tiled"](network, image, size, 3), whole)
    assert not torch.allclose(GUIDE["tiled"](network, image, 16, 2), whole)


def test_tiles_of_strided_layers_equal_the_whole_image_at_multiples() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1),
        nn.ConvTranspose2d(4, 1, 4, stride=2, padding=1),
    ).double()
    image = torch.rand(1, 1, 32, 48, dtype=torch.float64)
    torch.testing.assert_close(GUIDE["tiled"](network, image, 16, 4), network(image))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_equal_channels_give_what_they_gave_before(channels: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=channels % 2 == 0).double()
    new = GUIDE["first_convolution"](conv, channels)
    grey = torch.rand(2, 1, 9, 9, dtype=torch.float64)
    found = new(grey.expand(-1, channels, -1, -1))
    torch.testing.assert_close(found, conv(grey.expand(-1, 3, -1, -1)))
    if channels == 3:
        torch.testing.assert_close(new.weight, conv.weight)


def test_a_convolution_of_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="one group"):
        GUIDE["first_convolution"](nn.Conv2d(4, 4, 3, groups=4), 1)


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("uint8", 8), ("uint16", 12), ("uint16", 16), ("int16", 12), ("int32", 16)],
)
def test_values_of_every_integer_type_become_0_to_1(dtype: str, bits: int) -> None:
    raw = np.array([0, 2**bits - 1], dtype=dtype)
    assert GUIDE["unit"](torch.from_numpy(raw), bits).tolist() == [0.0, 1.0]


def test_values_beyond_the_bits_are_refused() -> None:
    assert GUIDE["unit"](torch.tensor([0, 4095]), 12).tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match="expected 0 to 4095, got 0 to 5000"):
        GUIDE["unit"](torch.tensor([0, 5000]), 12)
