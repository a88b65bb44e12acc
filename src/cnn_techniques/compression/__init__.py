"""Making a trained network smaller or faster."""

from .batchnorm_folding import fold_batch_norms as fold_batch_norms
from .batchnorm_folding import fold_into as fold_into
from .batchnorm_folding import norms_to_fold as norms_to_fold
from .int4_quantization import Int4Conv2d as Int4Conv2d
from .int4_quantization import Int4Linear as Int4Linear
from .int4_quantization import int4_codes as int4_codes
from .int4_quantization import pack_int4 as pack_int4
from .int4_quantization import quantize_int4 as quantize_int4
from .int4_quantization import unpack_int4 as unpack_int4
from .knowledge_distillation import distillation_loss as distillation_loss
from .onnx_export import export_onnx as export_onnx
from .onnx_export import onnx_difference as onnx_difference
from .structured_pruning import prune_filters as prune_filters
from .structured_pruning import remove_filters as remove_filters
from .structured_pruning import tied_filters as tied_filters
from .structured_pruning import weakest_filters as weakest_filters
