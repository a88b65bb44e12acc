"""What the attention blocks cost at the same place of the same network: their table side by side."""

from collections.abc import Callable

import torch
from torch import nn

from cnn_site import pages
from cnn_techniques import attention
from cnn_techniques.attention.multi_head_attention import SelfAttention2d
from cnn_techniques.evaluation import model_cost
from cnn_techniques.modern.resnet import Bottleneck, ResNet

# Reductions as the papers have them; page, and what makes the block for C channels.
BLOCKS: dict[str, Callable[[int], nn.Module]] = {
    "squeeze-and-excitation": lambda c: attention.SqueezeExcitation(c, c // 16),
    "cbam": attention.CBAM,
    "bam": attention.BAM,
    "efficient-channel-attention": attention.EfficientChannelAttention,
    "coordinate-attention": attention.CoordinateAttention,
    "selective-kernel": attention.SelectiveKernel,
    "non-local": lambda c: attention.NonLocal(c, c // 2),
    "global-context": lambda c: attention.GlobalContext(c, c // 16),
    "simam": lambda c: attention.SimAM(),
    "multi-head-attention": lambda c: SelfAttention2d(c, heads=8),
}


def test_every_attention_block_stands_in_the_table() -> None:
    written = [t for t in pages.in_category("attention") if t.facts]
    assert [t.slug.partition("/")[2] for t in written] == list(BLOCKS)


def test_cost_of_every_block_in_all_branches_of_resnet_50(evidence) -> None:
    rows = {}
    for key, make in {"resnet-50": None, **BLOCKS}.items():
        with torch.device("meta"):
            network = ResNet(Bottleneck, (3, 4, 6, 3), attention=make).eval()
            cost = model_cost(network, torch.empty(1, 3, 224, 224))
        name = (
            "ResNet-50" if make is None else pages.technique(f"attention/{key}").short
        )
        rows[key] = {
            "name": name,
            "params": cost.params,
            "macs": cost.macs,
            "saved_bytes": cost.saved_bytes,
        }
    plain = rows["resnet-50"]
    for row in rows.values():
        for quantity in ("params", "macs", "saved_bytes"):
            row[f"more_{quantity}"] = row[quantity] / plain[quantity] - 1
    evidence.computed("cost", rows)
