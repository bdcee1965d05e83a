"""Teach the package an operator that it does not know, and score a model that calls it.

    python examples/rule_for_own_operator.py
"""

import torch
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.errors import UnsupportedOperatorError


class Wave(nn.Module):
    """An activation that no rule covers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sinc(x)


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), Wave(), nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    x = torch.randn(1, 3, 16, 16)
    try:
        dfpc.bgsc(model, x)
    except UnsupportedOperatorError as error:
        print("Without a rule:", str(error).splitlines()[1].strip())

    # sinc changes at most 1.371 times as fast as its argument: a bound, and said to be one.
    @dfpc.rule(torch.sinc, torch.Tensor.sinc, convention="bound")
    def sinc(input: torch.Tensor) -> torch.Tensor:
        """1.371 x: Lipschitz constant."""
        return 1.371 * input

    saliency = dfpc.bgsc(model, x)
    print("With it:", saliency)
    weakest = saliency["0"].argmin().item()
    print(f"Channel {weakest} of the first layer matters least")

    # What a rule promises can be checked: the output never changes by more than the score says.
    zeroed = nn.Sequential(*list(model)[:3])
    inputs = torch.rand(64, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        waves = zeroed[1](zeroed[0](inputs))
        without = waves.clone()
        bias = zeroed[0].bias[weakest]
        without[:, weakest] = torch.sinc(bias)  # as if the channel's filter were zero
        change = (zeroed[2](waves) - zeroed[2](without)).abs().sum((1, 2, 3)).max().item()
    print(f"Largest change seen {change:.1f}, bound {saliency['0'][weakest].item():.1f}")


if __name__ == "__main__":
    main()
