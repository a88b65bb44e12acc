"""Making a trained network smaller or faster."""

from .knowledge_distillation import distillation_loss as distillation_loss
