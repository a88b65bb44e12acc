import torch

from cnn_techniques.training import (
    auto_contrast,
    operation_table,
    posterize,
    shear_x,
    solarize,
)

# --8<-- [start:usage]
row = torch.tensor([40, 70, 100, 130, 160, 190, 220], dtype=torch.uint8)
image = row.expand(1, 3, 7)  # (C, H, W), three equal rows
for name, changed in {
    "image": image,
    "posterize, 2 bits": posterize(image, 2),
    "solarize from 0.5": solarize(image, 0.5),
    "auto-contrast": auto_contrast(image),
    "shear by 2": shear_x(image, 2.0),
}.items():
    print(f"{name:18} {changed[0, 2].tolist()}")
operations = operation_table(31, 0.3, [10.0, 10.0], 30.0, 0.9, 4)
angle = operations["Rotate"].magnitudes[15]
print(f"{len(operations)} operations; half of the largest turn: {angle:.0f} degrees")
# --8<-- [end:usage]
