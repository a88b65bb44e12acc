import torch

from cnn_techniques.evaluation import (
    accuracy,
    balanced_accuracy,
    confusion_matrix,
    f1_score,
    macro_average,
    precision,
    recall,
)

# --8<-- [start:usage]
torch.manual_seed(0)
targets = torch.tensor(
    [0] * 80 + [1] * 15 + [2] * 5
)  # 100 samples, the last class is rare
logits = (
    torch.randn(100, 3) + 1.5 * torch.eye(3)[targets] + torch.tensor([1.0, 0.0, 0.0])
)
matrix = confusion_matrix(logits, targets, num_classes=3)
print(matrix.tolist())  # a row per true class, a column per predicted class
for name, score in (("precision", precision), ("recall", recall), ("F1", f1_score)):
    print(f"{name:9}", " ".join(f"{value:.3f}" for value in score(matrix).tolist()))
print(f"accuracy          {accuracy(matrix):.3f}")
print(f"balanced accuracy {balanced_accuracy(matrix):.3f}")
print(f"macro F1          {macro_average(f1_score(matrix), matrix):.3f}")
# --8<-- [end:usage]
