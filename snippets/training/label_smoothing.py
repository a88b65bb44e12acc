import torch

from cnn_techniques.training import smooth_labels, smoothed_cross_entropy

# --8<-- [start:usage]
torch.manual_seed(0)
labels = torch.tensor([3, 7, 0, 3])
scores = torch.randn(4, 10, requires_grad=True)  # in your loop: net(images)

targets = smooth_labels(labels, classes=10)
print(
    f"targets {targets[0, 3]:.2f} for the right class, {targets[0, 0]:.2f} for others"
)
plain = smoothed_cross_entropy(scores, labels, epsilon=0)
loss = smoothed_cross_entropy(scores, labels)  # epsilon=0.1
loss.backward()
print(f"loss {loss:.4f}, without smoothing {plain:.4f}")

pull = 4 * scores.grad[0]  # of the mean over four images
gap = pull - (scores[0].softmax(dim=0) - targets[0])
print(f"pull on the right class {pull[3]:.3f}, from p - q' by {gap.abs().max():.3f}")
# --8<-- [end:usage]
