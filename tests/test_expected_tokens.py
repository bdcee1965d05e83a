"""Expected errors behind attention: what is attended to has the mean of its values over the tokens."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dfpc_plugin as dfpc
from expected_oracle import relu_moments


class Attending(nn.Module):
    """Values with unit variances and a mean of their own for every token, attended to and cut off at zero."""

    def __init__(self, means: Tensor) -> None:
        super().__init__()
        self.register_buffer("means", means)
        channels = means.shape[1]
        self.value, self.norm = nn.Linear(3, channels), nn.LayerNorm(channels)
        self.query, self.key = nn.Linear(3, channels), nn.Linear(3, channels)
        self.head = nn.Linear(channels, 2)
        with torch.no_grad():
            self.value.weight.fill_(0.5)  # every channel varies alike
            self.head.weight.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        values = self.norm(self.value(x)) + self.means
        return self.head(F.scaled_dot_product_attention(self.query(x), self.key(x), values).relu())


def test_attention_returns_the_mean_over_tokens() -> None:
    """Means of 6 and -6 add up to 0, where a ReLU cuts off half; twice 6 is never cut off, twice -6 always."""
    model = (
        Attending(torch.tensor([[6.0, 6.0, -6.0, 6.0], [6.0, -6.0, -6.0, 6.0]], dtype=torch.float64)).double().eval()
    )
    scores = dfpc.bgsc(model, torch.zeros(1, 2, 3, dtype=torch.float64), ranking="expected")["value"]
    half = relu_moments(0.0, 1.0)[1]
    assert float(scores[1] / scores[0]) == pytest.approx(half, rel=2e-3)
    assert float(scores[3]) == pytest.approx(float(scores[0])) and float(scores[2]) < 1e-3 * float(scores[0])


def test_attention_as_a_module_counts_as_the_fused_function() -> None:
    """One head: torch's own layer, and its projections around the fused function."""

    class AsModule(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(16, 1, batch_first=True), nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.attention(x, x, x, need_weights=False)[0])

    class Fused(AsModule):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            given = self.attention
            q, k, v = torch.nn.functional.linear(x, given.in_proj_weight, given.in_proj_bias).chunk(3, -1)
            return self.head(given.out_proj(torch.nn.functional.scaled_dot_product_attention(q, k, v)))

    torch.manual_seed(0)
    module, fused = AsModule().double().eval(), Fused().double().eval()
    fused.load_state_dict(module.state_dict())
    tokens = torch.rand(1, 5, 16, dtype=torch.float64)
    found, wanted = (
        dfpc.bgsc(model, tokens, ranking="expected")["attention.in_proj_weight"] for model in (module, fused)
    )
    torch.testing.assert_close(found[:32], wanted[:32])
