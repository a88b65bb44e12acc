import re

import torch
from torch import Tensor

from cnn_techniques.segmentation import SegFormer, enlarged, segformer_loss

# --8<-- [start:usage]
torch.manual_seed(0)
sizes = {"heads": (1, 2, 4, 8), "drop_path": 0.0, "dropout": 0.0}
network = SegFormer((8, 16, 32, 64), (1, 1, 1, 1), 32, num_classes=3, **sizes).double()

# Two images, each with a bright disc (class 1) and a dark one (class 2).
images = 0.1 * torch.randn(2, 3, 64, 96, dtype=torch.float64)
masks = torch.zeros(2, 64, 96, dtype=torch.int64)
y, x = torch.arange(64)[:, None], torch.arange(96)
discs = [(0, 1, 21, 25), (0, 2, 40, 70), (1, 2, 30, 24), (1, 1, 33, 66)]
for n, label, row, column in discs:
    disc = (y - row) ** 2 + (x - column) ** 2 < 17**2
    masks[n][disc] = label
    images[n, :, disc] += 1.0 if label == 1 else -1.0

optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
for step in range(41):
    loss = segformer_loss(network(images), masks)
    if step % 20 == 0:
        print(f"step {step}: loss {loss:.3f}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

with torch.no_grad():
    scores = network(images)  # at a quarter of height and width
labels = enlarged(scores, images.shape[-2:]).argmax(dim=1)
print(tuple(scores.shape), "->", tuple(labels.shape))
print(f"pixels right: {(labels == masks).double().mean():.3f}")
# --8<-- [end:usage]

# --8<-- [start:published]
PUBLISHED = [  # in files for transformers -> here
    (r"encoder\.patch_embeddings\.(\d)", r"stages.\1.patch_embeddings"),
    (r"encoder\.block\.(\d)", r"stages.\1.blocks"),
    (r"encoder\.layer_norm\.(\d)", r"stages.\1.layer_norm"),
    ("layer_norm_1", "layernorm_before"),
    ("layer_norm_2", "layernorm_after"),
    ("attention.self.query", "attention.q_proj"),
    ("attention.self.key", "attention.k_proj"),
    ("attention.self.value", "attention.v_proj"),
    ("attention.output.dense", "attention.o_proj"),
    ("attention.self.sr", "attention.sequence_reduction.sequence_reduction"),
    ("attention.self.layer_norm", "attention.sequence_reduction.layer_norm"),
    ("mlp.dense", "mlp.fc"),
    ("decode_head.linear_c", "decode_head.linear_projections"),
]


def published(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a file under the names that they have here."""
    renamed = {}
    for name, value in state.items():
        for theirs, ours in PUBLISHED:
            name = re.sub(theirs, ours, name)
        renamed[name] = value
    return renamed


# --8<-- [end:published]
