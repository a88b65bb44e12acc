import torch
from torch import nn

from cnn_techniques.attention import MultiHeadAttention, SelfAttention2d

# --8<-- [start:usage]
torch.manual_seed(0)
attention = MultiHeadAttention(width=64, heads=4)
tokens = torch.randn(2, 10, 64)  # self-attention: 10 tokens read from one another
out = attention(tokens)
print(f"self-attention: {tuple(out.shape)}, size {out.abs().mean():.3f}")
queries = torch.randn(2, 3, 64)  # cross-attention: 3 queries read from 10 tokens
real = torch.arange(10) < 7  # the last three are padding
out = attention(queries, tokens, mask=real)
same = attention(queries, tokens[:, :7])
print(f"cross-attention: {tuple(out.shape)}, size {out.abs().mean():.3f}")
print(f"padding changes it by {(out - same).abs().max():.3f}")
block = SelfAttention2d(channels=64, heads=4)  # on a feature map
nn.init.normal_(block.attention.out_proj.weight, std=0.1)  # a new one adds nothing
maps = torch.randn(2, 64, 14, 14)
out = block(maps)
print(f"on a map: {tuple(out.shape)}, adds {(out - maps).abs().mean():.3f}")
# --8<-- [end:usage]
