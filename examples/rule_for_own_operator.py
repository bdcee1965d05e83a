"""Register an operator that the package does not know, then score and prune a model that calls it.

python examples/rule_for_own_operator.py
"""

import torch
from torch import nn

import dfpc_plugin as dfpc
from dfpc_plugin.errors import UnsupportedOperatorError


class Bessel(nn.Module):
    """An activation that is not registered."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), Bessel(), nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)
    )
    x = torch.randn(1, 3, 16, 16)
    try:
        dfpc.bgsc(model, x)
    except UnsupportedOperatorError as error:
        print("Not registered:", str(error).splitlines()[1].strip())

    # bessel_j0 changes at most 0.582 times as fast as its argument, and acts on every entry by itself.
    @dfpc.rule(torch.special.bessel_j0, convention="bound", kind="pointwise")
    def bessel(input: torch.Tensor) -> torch.Tensor:
        """0.582 x: Lipschitz constant."""
        return 0.582 * input

    saliency = dfpc.bgsc(model, x)
    print("Registered:", saliency)
    weakest = saliency["0"].argmin().item()
    print(f"Channel {weakest} of the first layer matters least")

    # The promise of the rule can be checked: the output never changes by more than the score says.
    front = nn.Sequential(*list(model)[:3])
    inputs = torch.rand(64, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        waves = front[1](front[0](inputs))
        without = waves.clone()
        bias = front[0].bias[weakest]
        without[:, weakest] = torch.special.bessel_j0(bias)  # as if the channel's filter were zero
        change = (front[2](waves) - front[2](without)).abs().sum((1, 2, 3)).max().item()
    print(f"Largest change seen {change:.1f}, bound {saliency['0'][weakest].item():.1f}")

    # The same registration says that channels pass the operator unchanged, so both layers around it can be pruned.
    pruned = dfpc.prune(model, x, "macs=0.5").model
    print(f"Pruned: {model[0].out_channels} -> {pruned[0].out_channels} channels, output {tuple(pruned(x).shape)}")


if __name__ == "__main__":
    main()
