"""The small project with a float model that is worth keeping: its factory trains it, at once."""

from __future__ import annotations

from pipeline.conftest import DATA, MODEL, TESTED

TRAINED = (
    MODEL
    + """
_untrained = build

def build():
    from data import train
    model = _untrained()
    inputs, labels = train().tensors
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for step in range(40):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return model.eval()
"""
)
NOISY = DATA.replace("* 0.3", "* 3.0")
"""Classes that one channel cannot tell apart, and three can."""

SETTINGS = TESTED.replace("max_drop = 1.0", "max_drop = 0.1")
