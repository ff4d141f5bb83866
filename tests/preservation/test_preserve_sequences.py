"""What the float model says about sequences: doubts at labelled tokens alone, features where they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sgsc_edge.errors import ConfigError, ModelError
from sgsc_edge.preservation.pool import content_hashes
from sgsc_edge.preservation.scores import decide, score
from sgsc_edge.preservation.sequences import decided_logits, doubts, joined, pooled
from sgsc_edge.preservation.sets import Samples, class_of
from sgsc_edge.preservation.taps import Taps, find_text_taps
from sgsc_edge.preservation.uncertainty import uncertainty

NONE = -100
TOKENS, LENGTH = 5, 4


class Net(nn.Module):
    """Running means of embeddings, a LayerNorm and a head: each token sees those in front of it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tokens, self.mix = nn.Embedding(TOKENS, 6), nn.Linear(6, 6)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        seen = self.tokens(x).cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
        return self.head(self.norm(seen + self.mix(seen).relu()))


def samples(n: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(TOKENS, (n, LENGTH), generator=generator)
    labels = torch.randint(TOKENS, (n, LENGTH), generator=generator)
    lengths = torch.randint(1, LENGTH + 1, (n, 1), generator=generator)
    return list(zip(tokens, torch.where(torch.arange(LENGTH) < lengths, labels, NONE), strict=True))


@settings(deadline=None)
@given(st.integers(1, 8), st.integers(0, 2**31))
def test_doubts_are_means_over_the_labelled_tokens_of_each_sequence(n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, LENGTH, TOKENS, generator=generator) * 3
    labels = torch.stack([label for _, label in samples(n, seed)])
    found = doubts(logits, labels)
    for row in range(n):
        mask = labels[row] != NONE
        own = uncertainty(logits[row][mask].numpy())
        assert found.doubt.least_confidence[row] == pytest.approx(own.least_confidence.mean())
        assert found.doubt.margin[row] == pytest.approx(own.margin.mean())
        assert found.doubt.entropy[row] == pytest.approx(own.entropy.mean())
        assert found.right[row] == int((logits[row].argmax(1) == labels[row])[mask].sum())
        largest = float(logits[row].amax(1)[mask].sum())
        assert float(decided_logits(logits, labels)[row]) == pytest.approx(largest, rel=1e-5)
        mean = logits[row][mask].mean(0)
        torch.testing.assert_close(pooled(logits, labels)[row], mean)
    halves = joined([doubts(logits[:1], labels[:1]), *([doubts(logits[1:], labels[1:])] if n > 1 else [])])
    np.testing.assert_array_equal(halves.right, found.right)
    np.testing.assert_allclose(halves.doubt.margin, found.doubt.margin)


def test_unlabelled_tokens_change_no_score() -> None:
    """Of a causal model what stands behind the last label counts nowhere."""
    dataset, network = samples(30), Net().eval()
    other = [(torch.where(label == NONE, 0, tokens), label) for tokens, label in dataset]
    taps = find_text_taps(network, dataset[0][0], None, "x")
    rows = []
    for one in (dataset, other):
        hashes = [f"{number:064x}" for number in range(len(one))]  # the same order for both
        labels = [class_of(label) for _, label in one]
        rows.append(score(network, one, hashes, labels, taps=taps, wanted=5, seed=0, name="x"))
    for name in ("label", "prediction", "saliency", "uncertainty", "margin", "entropy", "cluster"):
        np.testing.assert_allclose(getattr(rows[0], name), getattr(rows[1], name), rtol=1e-5, atol=1e-6)
    found = decide(network, dataset, hashes, taps=taps, name="x")
    np.testing.assert_array_equal(found.prediction, rows[0].prediction)
    np.testing.assert_allclose(found.margin, rows[0].margin, rtol=1e-6)


def test_saliency_is_the_gradient_times_the_features_of_each_token() -> None:
    dataset, network = samples(6), Net().eval()
    hashes = [f"{number:064x}" for number in range(6)]
    labels = [class_of(label) for _, label in dataset]
    taps = find_text_taps(network, dataset[0][0], "mix", "x")
    found = score(network, dataset, hashes, labels, taps=taps, wanted=2, seed=0, name="x")
    for row, (tokens, label) in enumerate(dataset):
        seen = network.tokens(tokens[None]).cumsum(1) / torch.arange(1, LENGTH + 1)[:, None]
        mixed = network.mix(seen).detach().requires_grad_()
        logits = network.head(network.norm(seen.detach() + mixed.relu()))
        (logits.amax(-1)[0] * (label != NONE)).sum().backward()
        by_token = (mixed.detach() * mixed.grad).sum(-1).relu()
        assert found.saliency[row] == pytest.approx(float(by_token.sum()) / labels[row], rel=1e-4, abs=1e-6)


def test_taps_are_the_last_linear_and_the_layer_that_is_asked_for() -> None:
    network, tokens = Net().eval(), samples(1)[0][0]
    assert find_text_taps(network, tokens, None, "x") == Taps(None, "head", None, None, is_text=True)
    assert find_text_taps(network, tokens, "norm", "x").gradient == "norm"
    with pytest.raises(ConfigError, match="no layer 'nrom'; did you mean 'norm'"):
        find_text_taps(network, tokens, "nrom", "x")
    with pytest.raises(ModelError, match=r"no nn\.Linear"):
        find_text_taps(nn.Embedding(TOKENS, TOKENS), tokens, None, "x")


def test_samples_of_text_keep_whole_labels_and_hash_them() -> None:
    dataset = samples(5)
    hashes = tuple(content_hashes(dataset))
    one = Samples(dataset, hashes)
    assert one.labels == tuple(int((label != NONE).sum()) for _, label in dataset)
    tokens, labels = one.tensors()
    assert (tokens.shape, labels.shape, labels.dtype) == ((5, LENGTH), (5, LENGTH), torch.int64)
    changed = [(token, label.clone()) for token, label in dataset]
    changed[2][1][0] = (changed[2][1][0] + 1) % TOKENS  # as many labels, another one
    other = Samples(changed, hashes)
    assert other.labels == one.labels
    assert other.key() != one.key()
