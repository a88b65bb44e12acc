"""Networks that label every pixel."""

from .u_net import UNet as UNet
