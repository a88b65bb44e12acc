"""compression"""

from .knowledge_distillation import distillation_loss as distillation_loss
