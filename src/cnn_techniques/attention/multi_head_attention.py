"""Multi-head attention: every token reads from others, in several ways at once.

Source: Vaswani et al., "Attention Is All You Need", NeurIPS 2017, arXiv:1706.03762,
sections 3.2.1 to 3.2.3.
Legend: N images, L tokens that read (queries), S tokens that are read (keys, values),
D width of a token, h heads, C channels, H x W pixels.
"""

# --8<-- [start:imports]
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# --8<-- [end:imports]


# --8<-- [start:module]
def dot_product_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Scaled dot-product attention: values averaged by how well keys fit a query.

    Shape: (..., L, d), (..., S, d), (..., S, e) -> (..., L, e). The boolean mask, True
    where a query may read a key, is broadcast to (..., L, S).
    """
    scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5  # (..., L, S)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


class MultiHeadAttention(nn.Module):
    """Queries read from keys and values, in h heads of width D / h.

    Parameters are named and ordered as in `torch.nn.MultiheadAttention`, whose weights
    load strictly.

    Args:
        width: D, entries of a token.
        heads: h, which must divide D (paper: 8 of D = 512).
        attention: what is done in each head; `F.scaled_dot_product_attention` does
            it without keeping the (L, S) weights in memory.

    Shape: query (N, L, D), key and value (N, S, D) -> (N, L, D). Without key it is the
    query (self-attention), without value the key. The boolean mask, True where a query
    may read a key, is broadcast to (N, h, L, S); each query must have a key to read.
    Parameters: 4 * D^2 weights, 4 * D biases.
    Raises: ValueError for impossible sizes or inputs, TypeError for another mask.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        attention: Callable[..., Tensor] = dot_product_attention,
    ) -> None:
        super().__init__()
        if heads < 1 or width < 1 or width % heads != 0:
            raise ValueError(f"width must be a multiple of {heads=}, got {width=}")
        self.heads, self.attention = heads, attention
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))  # q, k, v
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        value: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        key = query if key is None else key
        value = key if value is None else value
        n, width = query.shape[0], self.out_proj.in_features
        tokens = (query, key, value)
        if any(t.ndim != 3 or t.shape[::2] != (n, width) for t in tokens):
            told = ", ".join(str(tuple(t.shape)) for t in tokens)
            raise ValueError(f"expected (N, tokens, {width}) three times, got {told}")
        if key.shape != value.shape:
            told = f"{tuple(key.shape)} and {tuple(value.shape)}"
            raise ValueError(f"expected a value for every key, got {told}")
        if mask is not None and mask.dtype != torch.bool:
            raise TypeError(f"expected a mask of torch.bool, got {mask.dtype}")
        if key is query and value is query:  # one product for all three
            projected = F.linear(query, self.in_proj_weight, self.in_proj_bias)
            q, k, v = projected.chunk(3, dim=2)  # each (N, L, D)
        else:
            w_q, w_k, w_v = self.in_proj_weight.chunk(3)
            b_q, b_k, b_v = self.in_proj_bias.chunk(3)
            q = F.linear(query, w_q, b_q)  # (N, L, D)
            k = F.linear(key, w_k, b_k)  # (N, S, D)
            v = F.linear(value, w_v, b_v)  # (N, S, D)
        q, k, v = self.split(q), self.split(k), self.split(v)  # (N, h, L or S, D/h)
        heads = self.attention(q, k, v, mask)  # (N, h, L, D/h)
        joined: Tensor = self.out_proj(heads.transpose(1, 2).flatten(2))  # (N, L, D)
        return joined

    def split(self, x: Tensor) -> Tensor:
        """(N, L, D) -> (N, h, L, D/h): a head is a slice of the last dimension."""
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


# --8<-- [end:module]


# --8<-- [start:map]
class SelfAttention2d(nn.Module):
    """Self-attention over the H * W pixels of a map, added to the map.

    The last linear layer starts at zero, so that a new block is the identity.

    Args:
        channels: C, number of input channels; the output has the same number.
        heads: h, which must divide C.

    Shape: (N, C, H, W) -> (N, C, H, W), for any H and W.
    Raises: ValueError for impossible sizes, or an input of another shape.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(channels, heads)
        nn.init.zeros_(self.attention.out_proj.weight)

    def forward(self, x: Tensor) -> Tensor:
        channels = self.attention.out_proj.in_features
        if x.ndim != 4 or x.shape[1] != channels:
            raise ValueError(f"expected (N, {channels}, H, W), got {tuple(x.shape)}")
        tokens = x.flatten(2).transpose(1, 2)  # (N, H*W, C)
        read = self.attention(tokens).transpose(1, 2)  # (N, C, H*W)
        return x + read.unflatten(2, x.shape[2:])


# --8<-- [end:map]
