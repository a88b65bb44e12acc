"""foundations"""

from .lenet_5 import LeNet5 as LeNet5
from .lenet_5 import LeNet5Paper as LeNet5Paper
from .lenet_5 import LeNet5PartialConv2d as LeNet5PartialConv2d
from .lenet_5 import LeNet5Subsampling as LeNet5Subsampling
from .lenet_5 import lenet5_codes as lenet5_codes
from .lenet_5 import lenet5_map_loss as lenet5_map_loss
