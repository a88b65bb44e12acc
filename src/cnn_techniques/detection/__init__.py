"""Finding objects: boxes, classes and scores."""

from .feature_pyramid_network import FeaturePyramidNetwork as FeaturePyramidNetwork
from .feature_pyramid_network import FeaturePyramidP6P7 as FeaturePyramidP6P7
from .feature_pyramid_network import FeaturePyramidPool as FeaturePyramidPool
from .retinanet import RetinaNet as RetinaNet
from .retinanet import RetinaNetBackbone as RetinaNetBackbone
from .retinanet import RetinaNetClassificationHead as RetinaNetClassificationHead
from .retinanet import RetinaNetOutput as RetinaNetOutput
from .retinanet import RetinaNetRegressionHead as RetinaNetRegressionHead
from .retinanet import decode_boxes as decode_boxes
from .retinanet import encode_boxes as encode_boxes
from .retinanet import match_anchors as match_anchors
from .retinanet import retinanet_anchors as retinanet_anchors
from .retinanet import retinanet_detections as retinanet_detections
from .retinanet import retinanet_loss as retinanet_loss
from .retinanet import retinanet_resnet50_fpn as retinanet_resnet50_fpn
from .retinanet import sigmoid_focal_loss as sigmoid_focal_loss
