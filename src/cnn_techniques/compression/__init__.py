"""Making a trained network smaller or faster."""

from .batchnorm_folding import fold_batch_norms as fold_batch_norms
from .batchnorm_folding import fold_into as fold_into
from .batchnorm_folding import norms_to_fold as norms_to_fold
from .half_precision import FloatFormat as FloatFormat
from .half_precision import HalfPrecision as HalfPrecision
from .half_precision import round_to as round_to
from .int8_quantization import QuantizedLayer as QuantizedLayer
from .int8_quantization import input_ranges as input_ranges
from .int8_quantization import quantize_int8 as quantize_int8
from .int8_quantization import to_integers as to_integers
from .int8_quantization import weight_scales as weight_scales
from .iterative_pruning import prune_iteratively as prune_iteratively
from .iterative_pruning import pruning_rounds as pruning_rounds
from .iterative_pruning import shuffled as shuffled
from .knowledge_distillation import distillation_loss as distillation_loss
from .onnx_export import export_onnx as export_onnx
from .onnx_export import onnx_difference as onnx_difference
from .unstructured_pruning import apply_masks as apply_masks
from .unstructured_pruning import magnitude_masks as magnitude_masks
from .unstructured_pruning import prunable as prunable
from .unstructured_pruning import sparsity_of as sparsity_of
