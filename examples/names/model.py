"""A decoder-only transformer that reads a name and says, after each character, which one comes next.

Four blocks of four attention heads over 64 values a character: 0.2 million parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

TOKENS = 27
"""``.``, which starts and ends a name, and a to z."""

LENGTH = 32
"""Characters of a block, ``.`` in front among them; names are shorter."""


class Attention(nn.Module):
    """Causal self-attention of ``heads`` heads: float32 [n, T, width] -> the same."""

    def __init__(self, length: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        self.register_buffer("later", later, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Each character looks at itself and at those in front of it."""
        n, length, width = x.shape
        size = width // self.heads

        def by_head(rows: Tensor) -> Tensor:
            return rows.view(n, length, self.heads, size).transpose(1, 2)

        query, key, value = by_head(self.query(x)), by_head(self.key(x)), by_head(self.value(x))
        scores = query @ key.transpose(-2, -1) * size**-0.5
        weights = scores.masked_fill(self.later[:length, :length], float("-inf")).softmax(-1)
        return self.output((weights @ value).transpose(1, 2).reshape(n, length, width))


class Block(nn.Module):
    """Attention, then two dense layers at each character; both add to what came in."""

    def __init__(self, length: int, width: int, heads: int) -> None:
        super().__init__()
        self.before_attention = nn.LayerNorm(width)
        self.attention = Attention(length, width, heads)
        self.before_dense = nn.LayerNorm(width)
        self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Values float32 [n, T, width] -> the same."""
        x = x + self.attention(self.before_attention(x))
        return x + self.dense(self.before_dense(x))


class Names(nn.Module):
    """Tokens int64 [n, T] -> logits float32 [n, T, TOKENS] for the next token at each place; T <= length."""

    def __init__(self, blocks: int, width: int, heads: int, length: int = LENGTH) -> None:
        super().__init__()
        self.characters = nn.Embedding(TOKENS, width)
        self.places = nn.Embedding(length, width)
        self.register_buffer("place", torch.arange(length), persistent=False)
        self.blocks = nn.Sequential(*(Block(length, width, heads) for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, TOKENS)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of every next token."""
        x = self.characters(tokens) + self.places(self.place[: tokens.shape[1]])
        return self.head(self.norm(self.blocks(x)))


def build() -> nn.Module:
    """The untrained network."""
    return Names(blocks=4, width=64, heads=4)
