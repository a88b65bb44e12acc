import torch

from cnn_techniques.foundations import (
    INCEPTION_V3_AT_8,
    INCEPTION_V3_TO_17,
    FactorisedInception,
    InceptionV3,
    inception_v3_at_17,
    inception_v3_at_35,
)

# --8<-- [start:usage]
torch.manual_seed(0)
grids = {
    "at 35 x 35": (FactorisedInception(288, inception_v3_at_35(64)), 288, 35),
    "to 17 x 17": (FactorisedInception(288, INCEPTION_V3_TO_17, stride=2), 288, 35),
    "at 17 x 17": (FactorisedInception(768, inception_v3_at_17(128)), 768, 17),
    "at 8 x 8": (FactorisedInception(1280, INCEPTION_V3_AT_8), 1280, 8),
}
for name, (module, channels, size) in grids.items():
    maps = module.eval()(torch.randn(1, channels, size, size))
    weights = sum(p.numel() for p in module.parameters())
    print(f"{name}: {tuple(maps.shape)}, {weights:,} parameters")

model = InceptionV3(num_classes=10, aux_logits=False)  # small images: no head
scores, labels = model(torch.randn(4, 3, 107, 139)), torch.tensor([8, 5, 2, 5])
loss = torch.nn.functional.cross_entropy(scores, labels, label_smoothing=0.1)
print(f"scores: {tuple(scores.shape)}, loss with label smoothing: {loss:.3f}")
# --8<-- [end:usage]
