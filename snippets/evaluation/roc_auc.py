import torch

from cnn_techniques.evaluation import one_vs_rest_auc, roc_auc, roc_curve

# --8<-- [start:usage]
torch.manual_seed(0)
positive = torch.rand(1000) < 0.1  # one in ten
scores = torch.randn(1000) + 1.5 * positive

fpr, tpr, thresholds = roc_curve(scores, positive)
print(f"AUC {roc_auc(scores, positive):.3f}")
for wanted in (0.5, 0.8, 0.95):
    first = int((tpr >= wanted).nonzero()[0])
    share, threshold = fpr[first].item(), thresholds[first].item()
    print(f"to find {wanted:.0%}: threshold {threshold:.2f}, {share:.1%} false alarms")
# --8<-- [end:usage]
