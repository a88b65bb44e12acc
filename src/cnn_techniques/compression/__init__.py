"""Making a trained network smaller or faster."""

from .batchnorm_folding import fold_batch_norms as fold_batch_norms
from .batchnorm_folding import fold_into as fold_into
from .batchnorm_folding import norms_to_fold as norms_to_fold
from .half_precision import FloatFormat as FloatFormat
from .half_precision import HalfPrecision as HalfPrecision
from .half_precision import round_to as round_to
from .knowledge_distillation import distillation_loss as distillation_loss
from .onnx_export import export_onnx as export_onnx
from .onnx_export import onnx_difference as onnx_difference
