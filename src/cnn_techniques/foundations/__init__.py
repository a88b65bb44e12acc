"""foundations"""

from .lenet_5 import LeNet5 as LeNet5
from .lenet_5 import LeNet5Paper as LeNet5Paper
from .lenet_5 import LeNet5PartialConv2d as LeNet5PartialConv2d
from .lenet_5 import LeNet5Subsampling as LeNet5Subsampling
from .lenet_5 import lenet5_codes as lenet5_codes
from .lenet_5 import lenet5_map_loss as lenet5_map_loss
from .alexnet import ALEXNET as ALEXNET
from .alexnet import ALEXNET_PAPER as ALEXNET_PAPER
from .alexnet import AlexNet as AlexNet
from .alexnet import ResponseNorm as ResponseNorm
from .alexnet import alexnet as alexnet
from .alexnet import alexnet_paper as alexnet_paper
from .googlenet import GoogLeNet as GoogLeNet
from .googlenet import GoogLeNetAuxiliary as GoogLeNetAuxiliary
from .googlenet import GoogLeNetOutputs as GoogLeNetOutputs
from .googlenet import Inception as Inception
from .googlenet import googlenet as googlenet
