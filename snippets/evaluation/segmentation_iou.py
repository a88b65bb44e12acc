import torch

from cnn_techniques.evaluation import dice, iou, mean_dice, mean_iou, pixel_matrices

# --8<-- [start:usage]
targets = torch.zeros(2, 64, 64, dtype=torch.int64)  # class 0 is the background
targets[0, 8:56, 8:56] = 1  # a large object, 48 x 48 pixels
targets[1, 28:36, 28:36] = 1  # a small one, 8 x 8
predictions = targets.roll(shifts=4, dims=2)  # both are found 4 pixels too far right
targets[:, :, 60:] = 255  # not labelled

matrices = pixel_matrices(predictions, targets, num_classes=3, ignored=255)
print(matrices[1].tolist())  # of the second image: a row per true class
for name, matrix in (("large", matrices[0]), ("small", matrices[1])):
    print(f"{name}: IoU", " ".join(f"{value:.3f}" for value in iou(matrix).tolist()))
total = matrices.sum(dim=0)  # the matrix of the data set
print("both: IoU ", " ".join(f"{value:.3f}" for value in iou(total).tolist()))
print("both: Dice", " ".join(f"{value:.3f}" for value in dice(total).tolist()))
print(f"data set: mean IoU {mean_iou(total):.3f}, mean Dice {mean_dice(total):.3f}")
print(f"mean of the images' mean IoU {mean_iou(matrices).mean():.3f}")
# --8<-- [end:usage]
