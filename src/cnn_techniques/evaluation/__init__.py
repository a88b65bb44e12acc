"""Evaluation: numbers that say how good and how costly a network is."""

from .calibration import Reliability as Reliability
from .calibration import best_temperature as best_temperature
from .calibration import expected_calibration_error as expected_calibration_error
from .calibration import maximum_calibration_error as maximum_calibration_error
from .calibration import reliability as reliability
from .calibration import top_confidence as top_confidence
from .classification_metrics import accuracy as accuracy
from .classification_metrics import balanced_accuracy as balanced_accuracy
from .classification_metrics import confusion_matrix as confusion_matrix
from .classification_metrics import f1_score as f1_score
from .classification_metrics import macro_average as macro_average
from .classification_metrics import precision as precision
from .classification_metrics import recall as recall
from .classification_metrics import weighted_average as weighted_average
from .model_cost import Latency as Latency
from .model_cost import ModelCost as ModelCost
from .model_cost import cost_by_layer as cost_by_layer
from .model_cost import latency as latency
from .model_cost import model_cost as model_cost
from .segmentation_iou import dice as dice
from .segmentation_iou import iou as iou
from .segmentation_iou import mean_dice as mean_dice
from .segmentation_iou import mean_iou as mean_iou
from .segmentation_iou import pixel_matrices as pixel_matrices
