import torch

from cnn_techniques.optimization import gradient_accumulation_and_clipping, gradient_accumulation_and_clipping_drawn

# --8<-- [start:usage]
torch.manual_seed(0)
images = torch.arange(4.0).expand(6, 1, 1, 4)  # six rows 0 1 2 3
changed = gradient_accumulation_and_clipping(images)
print(*(row.int().tolist() for row in changed[:3, 0, 0]))  # TODO
# --8<-- [end:usage]
