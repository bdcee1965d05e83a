"""Layer-level view of couplings: which layers write and which read the same channels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dfpc_plugin.analyses.bounds import Bounds


@dataclass(frozen=True)
class LayerCoupling:
    """Feed-in layers whose outputs are combined element by element, and the layers that read them.

    Attributes:
        feed_in: Layers that write the coupled channels, in the order of the forward pass.
        feed_out: Layers that read them, in the order of the forward pass.
    """

    feed_in: tuple[str, ...]
    feed_out: tuple[str, ...]

    def __repr__(self) -> str:
        """Show the first layers, and the number of others."""
        return f"LayerCoupling({_first(self.feed_in)} -> {_first(self.feed_out)})"


def _first(names: tuple[str, ...]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def couple_layers(
    written: Iterable[str], met: Iterable[frozenset[str]], read: Iterable[tuple[str, frozenset[str]]]
) -> tuple[LayerCoupling, ...]:
    """Group layers into couplings.

    Args:
        written: Feed-in layers in the order of the forward pass; repeats are ignored.
        met: Sets of feed-in layers that were combined in one operator.
        read: Feed-out layers, each with the feed-in layers that reach it.

    Returns:
        Couplings that some layer reads, in the order of their first feed-in layer.
    """
    order = list(dict.fromkeys(written))
    parent = {name: name for name in order}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for names in met:
        first, *others = sorted(names)
        for other in others:
            parent[root(other)] = root(first)
    members: dict[str, list[str]] = {}
    for name in order:
        members.setdefault(root(name), []).append(name)
    readers: dict[str, dict[str, None]] = {key: {} for key in members}
    for reader, sources in read:
        for source in sources:
            readers[root(source)][reader] = None
    return tuple(LayerCoupling(tuple(names), tuple(readers[key])) for key, names in members.items() if readers[key])


def couplings_of(run: Bounds) -> tuple[LayerCoupling, ...]:
    """Group the layers of a pass into couplings."""
    return couple_layers(
        [writer.name for writer in run.writers], run.met, [(reader.name, reader.sources) for reader in run.readers]
    )
