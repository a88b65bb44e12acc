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
from .yolact import YOLACTHead as YOLACTHead
from .yolact import YOLACTOutput as YOLACTOutput
from .yolact import YOLACTProtonet as YOLACTProtonet
from .yolact import YOLACTPyramid as YOLACTPyramid
from .yolact import crop_masks as crop_masks
from .yolact import fast_nms as fast_nms
from .yolact import hard_negatives as hard_negatives
from .yolact import prototype_logits as prototype_logits
from .yolact import shrunken_masks as shrunken_masks
from .yolact import yolact_detections as yolact_detections
from .yolact import yolact_loss as yolact_loss
from .yolact import yolact_resnet50 as yolact_resnet50
from .yolact import yolact_resnet101 as yolact_resnet101
