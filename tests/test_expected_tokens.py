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
    model = Attending(torch.tensor([[6.0, 6.0, -6.0, 6.0], [6.0, -6.0, -6.0, 6.0]], dtype=torch.float64)).double().eval()
    scores = dfpc.bgsc(model, torch.zeros(1, 2, 3, dtype=torch.float64), ranking="expected")["value"]
    half = relu_moments(0.0, 1.0)[1]
    assert float(scores[1] / scores[0]) == pytest.approx(half, rel=2e-3)
    assert float(scores[3]) == pytest.approx(float(scores[0])) and float(scores[2]) < 1e-3 * float(scores[0])
