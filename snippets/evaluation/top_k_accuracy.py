import torch

from cnn_techniques.evaluation import top_k_accuracy

# --8<-- [start:usage]
torch.manual_seed(0)
labels = torch.randint(100, (2000,))
scores = torch.randn(2000, 100)
scores[torch.arange(2000), labels] += 2  # a classifier that knows something

for k in (1, 5, 10, 100):
    print(f"top-{k}: {top_k_accuracy(scores, labels, k):.1%}")
# --8<-- [end:usage]
