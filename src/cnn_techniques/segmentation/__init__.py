"""Networks that label every pixel."""

from .deeplab_v3_plus import ASPP as ASPP
from .deeplab_v3_plus import ASPPPooling as ASPPPooling
from .deeplab_v3_plus import AtrousSeparableConv as AtrousSeparableConv
from .deeplab_v3_plus import DeepLabV3Plus as DeepLabV3Plus
from .deeplab_v3_plus import DeepLabV3PlusDecoder as DeepLabV3PlusDecoder
from .deeplab_v3_plus import deeplabv3plus_resnet50 as deeplabv3plus_resnet50
from .deeplab_v3_plus import deeplabv3plus_resnet101 as deeplabv3plus_resnet101
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
from .pspnet import PSPNet as PSPNet
from .pspnet import PSPNetOutput as PSPNetOutput
from .pspnet import PyramidPooling as PyramidPooling
from .pspnet import pspnet_loss as pspnet_loss
from .pspnet import pspnet_resnet50 as pspnet_resnet50
from .pspnet import pspnet_resnet101 as pspnet_resnet101
from .u_net import UNet as UNet
