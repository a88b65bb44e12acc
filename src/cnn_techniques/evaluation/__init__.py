"""Evaluation: numbers that say how good and how costly a network is."""

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
from .roc_auc import one_vs_rest_auc as one_vs_rest_auc
from .roc_auc import roc_auc as roc_auc
from .roc_auc import roc_curve as roc_curve
from .top_k_accuracy import top_k_accuracy as top_k_accuracy
