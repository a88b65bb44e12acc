"""Networks that label every pixel."""

from .fcn import FCN as FCN
from .fcn import FCN8s as FCN8s
from .fcn import FCNHead as FCNHead
from .fcn import FCNOutput as FCNOutput
from .fcn import as_convolution as as_convolution
from .fcn import fcn8s as fcn8s
from .fcn import fcn_loss as fcn_loss
from .fcn import fcn_resnet50 as fcn_resnet50
from .fcn import fcn_resnet101 as fcn_resnet101
from .fcn import keep_resolution as keep_resolution
from .u_net import UNet as UNet
from .yolact import YOLACT as YOLACT
