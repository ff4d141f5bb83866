"""Small language models, their attention written in the ways in which people write it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from sgsc_edge.compression.calibration import calibrate
from sgsc_edge.compression.layers import QuantizedModel, quantize_model

VOCABULARY, CHANNELS, HEADS, LENGTH = 11, 16, 2, 8
SAMPLE = torch.arange(LENGTH) % VOCABULARY


class Attention(nn.Module):
    """Causal attention of several heads."""

    def __init__(self, form: str, channels: int = CHANNELS, heads: int = HEADS) -> None:
        super().__init__()
        self.form, self.heads, self.width = form, heads, channels // heads
        if form == "split":
            self.c_attn = nn.Linear(channels, 3 * channels)
        else:
            self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.proj = nn.Linear(channels, channels)
        self.drop = nn.Dropout(0.1)
        ones = torch.ones(LENGTH + 4, LENGTH + 4)
        self.register_buffer("tril", ones.tril().view(1, 1, *ones.shape))
        self.register_buffer("infinite", torch.full(ones.shape, -math.inf).triu(1))
        self.register_buffer("allowed", ones.tril().bool())

    def split(self, x: torch.Tensor) -> torch.Tensor:
        n, length, _ = x.shape
        return x.view(n, length, self.heads, self.width).transpose(1, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, channels = x.size()
        if self.form == "split":
            query, key, value = self.c_attn(x).split(channels, dim=2)
        else:
            query, key, value = self.query(x), self.key(x), self.value(x)
        query, key, value = self.split(query), self.split(key), self.split(value)
        if self.form == "function":
            y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        elif self.form == "given mask":
            mask = self.infinite[:length, :length]
            y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        else:
            scores = query @ key.transpose(-2, -1) * (1.0 / math.sqrt(key.size(-1)))
            y = self.drop(F.softmax(self.masked(scores, length), dim=-1)) @ value
        return self.proj(y.transpose(1, 2).contiguous().view(n, length, channels))

    def masked(self, scores: torch.Tensor, length: int) -> torch.Tensor:
        if self.form == "added":
            return scores + self.infinite[:length, :length]
        if self.form == "chosen":
            return torch.where(self.allowed[:length, :length], scores, -1e9)
        return scores.masked_fill(self.tril[:, :, :length, :length] == 0, float("-inf"))


class Head(nn.Module):
    """One head with layers of its own, on rank 3."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(CHANNELS, width, bias=False) for _ in range(3))
        self.register_buffer("tril", torch.tril(torch.ones(LENGTH, LENGTH)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, length, _ = x.shape
        key, query = self.key(x), self.query(x)
        scores = query @ key.transpose(-2, -1) * key.shape[-1] ** -0.5
        scores = scores.masked_fill(self.tril[:length, :length] == 0, float("-inf"))
        return F.softmax(scores, dim=-1) @ self.value(x)


class Heads(nn.Module):
    """Heads next to each other, as a list of modules."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(CHANNELS // HEADS) for _ in range(HEADS))
        self.proj = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(torch.cat([head(x) for head in self.heads], dim=-1))


class Norm(nn.Module):
    """LayerNorm as a function, without a shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, None, 1e-5)


class Block(nn.Module):
    def __init__(self, form: str, activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first = Norm(CHANNELS) if form == "split" else nn.LayerNorm(CHANNELS)
        self.attention = Heads() if form == "heads" else Attention(form)
        self.second = nn.LayerNorm(CHANNELS)
        self.up, self.down = nn.Linear(CHANNELS, 4 * CHANNELS), nn.Linear(4 * CHANNELS, CHANNELS)
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.first(x))
        return x + self.down(self.activation(self.up(self.second(x))))


FORMS = {
    "filled": F.gelu,
    "added": F.relu,
    "chosen": nn.GELU("tanh"),
    "function": nn.ReLU(),
    "given mask": torch.relu,
    "split": nn.GELU(),
    "heads": F.relu,
}
"""Form of attention -> the activation that goes with it."""

BLOCKS = {"function": 2, "heads": 2}
"""Forms that are trained with more than one block."""


class LanguageModel(nn.Module):
    """Tokens int64 [n, T] to logits [n, T, V]."""

    def __init__(self, form: str = "filled", blocks: int = 1) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, CHANNELS)
        self.positions = nn.Embedding(LENGTH + 4, CHANNELS)
        self.blocks = nn.Sequential(*(Block(form, FORMS[form]) for _ in range(blocks)))
        self.norm = nn.LayerNorm(CHANNELS)
        self.head = nn.Linear(CHANNELS, VOCABULARY, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        _, length = tokens.size()
        assert length <= LENGTH + 4, "longer than the table of positions"
        positions = torch.arange(0, length, dtype=torch.long, device=tokens.device).unsqueeze(0)
        return self.head(self.norm(self.blocks(self.tokens(tokens) + self.positions(positions))))


def sentences(n: int, seed: int = 0) -> torch.Tensor:
    """Tokens int64 [n, T + 1]: each is the sum of the two before it, now and then another one."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(0, VOCABULARY, (n, LENGTH + 1), generator=generator)
    noise = torch.rand(n, LENGTH + 1, generator=generator) < 0.05
    for place in range(2, LENGTH + 1):
        follows = (rows[:, place - 1] + rows[:, place - 2]) % VOCABULARY
        rows[:, place] = torch.where(noise[:, place], rows[:, place], follows)
    return rows


def loss_of(logits: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next tokens, nats."""
    return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def train(module: nn.Module, steps: int, rate: float = 3e-3) -> list[float]:
    """Train a language model in place; the loss of each step."""
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], rate)
    module.train()
    losses = []
    for step in range(steps):
        rows = sentences(64, seed=step + 1)
        loss = loss_of(module(rows[:, :-1]), rows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    module.eval()
    return losses


@cache
def trained(form: str) -> LanguageModel:
    """A float model that has learned something; not to be changed."""
    torch.manual_seed(0)
    model = LanguageModel(form, BLOCKS.get(form, 1))
    train(model, 120)
    return model


def calibrated(model: nn.Module) -> QuantizedModel:
    """In its trained form, with activation ranges from a few sentences."""
    quantized = quantize_model(model, SAMPLE)
    calibrate(quantized, [sentences(256)[:, :-1]])
    quantized.module.eval()
    return quantized


@cache
def _quantized(form: str) -> QuantizedModel:
    return calibrated(trained(form))


def quantized(form: str) -> QuantizedModel:
    """The trained model in its trained form, traced and calibrated once, free to be changed."""
    model = _quantized(form)
    return replace(model, module=copy.deepcopy(model.module))
