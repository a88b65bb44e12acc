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
from .mask_rcnn import MaskRCNN as MaskRCNN
from .mask_rcnn import MaskRCNNHead as MaskRCNNHead
from .mask_rcnn import MaskRCNNOutput as MaskRCNNOutput
from .mask_rcnn import MaskRCNNPredictor as MaskRCNNPredictor
from .mask_rcnn import mask_rcnn_detections as mask_rcnn_detections
from .mask_rcnn import mask_rcnn_loss as mask_rcnn_loss
from .mask_rcnn import mask_targets as mask_targets
from .mask_rcnn import maskrcnn_resnet50_fpn as maskrcnn_resnet50_fpn
from .mask_rcnn import paste_masks as paste_masks
from .mask_rcnn import proposals_with_objects as proposals_with_objects
from .u_net import UNet as UNet
