import torch

from cnn_techniques.evaluation import coco_curves, detection_map

# --8<-- [start:usage]
torch.manual_seed(0)
predictions, targets = [], []
for _ in range(30):  # images of eight objects of three classes, sides 8 to 150 pixels
    corner, size = torch.randint(400, (8, 2)), torch.randint(8, 151, (8, 2))
    boxes, labels = torch.cat([corner, corner + size], dim=1), torch.randint(3, (8,))
    targets.append({"boxes": boxes, "labels": labels})

    moved = boxes + torch.randint(-3, 4, (8, 4))  # found, up to 3 pixels off
    corner, size = torch.randint(400, (8, 2)), torch.randint(8, 151, (8, 2))
    alarms = torch.cat([corner, corner + size], dim=1)  # false alarms, less sure
    scores = torch.cat([torch.rand(8) * (3 - labels), torch.rand(8)])
    classes = torch.cat([labels, torch.randint(4, (8,))])
    boxes = torch.cat([moved, alarms])
    predictions.append({"boxes": boxes, "scores": scores, "labels": classes})

numbers = detection_map(predictions, targets, num_classes=4)
for row in ("AP AP50 AP75", "APs APm APl", "AR1 AR10 AR100", "ARs ARm ARl"):
    print(", ".join(f"{name} {numbers[name]:.3f}" for name in row.split()))
precision, _ = coco_curves(predictions, targets, num_classes=4)
each = precision[:, :, :, 0, 2].mean(dim=(0, 1))  # all areas, 100 detections
print("classes", [f"{value:.3f}" for value in each.tolist()])
# --8<-- [end:usage]
