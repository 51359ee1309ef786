"""Steps of optimisers: what the rest of an update sees of the new weights."""

from __future__ import annotations

import torch

from modules.agent.descent import descend, make_adam


def test_autocast_sees_the_new_weights_in_the_same_update() -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    optimizer = make_adam(layer.parameters(), 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        before = layer(x)
        descend(optimizer, before.float().square().sum())
        after = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(after, layer(x))
    assert not torch.equal(after, before)
