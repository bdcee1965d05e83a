"""The networks of the CIFAR papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from dfpc_plugin.models.cifar import NETWORKS
from dfpc_plugin.models.library import IMAGENET, Preprocessing

_SIZE = (3, 32, 32)
_OWN = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
"""Mean and standard deviation of CIFAR-10's channels, as in the public checkpoints of these networks."""


class CifarLibrary:
    """Networks for images of 32 x 32."""

    prefix = "cifar/"

    def names(self) -> Sequence[str]:
        """Names, with the prefix."""
        return [self.prefix + name for name in NETWORKS]

    def find_fault(self, name: str) -> str | None:
        """See `Library.find_fault`."""
        return None if name in self.names() else ""

    def build(self, name: str, options: Mapping[str, Any], *, pretrained: bool) -> nn.Module:
        """Build a network."""
        if pretrained:
            raise ValueError("no weights of it are published with a library; load some from a file")
        return NETWORKS[name.removeprefix(self.prefix)].build(**options)

    def shapes(self, model: nn.Module, name: str, size: int | None) -> list[tuple[int, ...]]:
        """Shape of one image."""
        return [(3, size or _SIZE[1], size or _SIZE[2])]

    def preprocessing(self, model: nn.Module, name: str) -> Preprocessing:
        """The preprocessing of the public checkpoints: images in their own size, normalised."""
        imagenet = NETWORKS[name.removeprefix(self.prefix)].imagenet_statistics
        return Preprocessing(_SIZE, *(IMAGENET if imagenet else _OWN))
