"""Which channels of which layers of a `Graph` stand or fall together, from the description alone."""

from __future__ import annotations

from collections import defaultdict

from oracles import Element
from tiny_nets import Graph

Labels = dict[str, list[Element | None]]


class Couplings:
    """`groups`: sets of (layer, channel) that meet in additions; `labels`: a member per tensor channel."""

    def __init__(self, graph: Graph) -> None:
        self._parent: dict[Element, Element] = {}
        self.labels: Labels = {name: [None] * shape[0] for name, shape in graph.inputs.items()}
        for node in graph.nodes:
            read = [self.labels[i] for i in node.inputs]
            width = graph.shapes[node.name][0]
            if graph.is_feed(node):
                result: list[Element | None] = [(node.layer, c) for c in range(width)]
            elif node.op in {"add", "add_"}:
                result = [self._unite(meeting) for meeting in zip(*read, strict=True)]
            elif node.op == "cat":
                result = [label for labels in read for label in labels]
            elif node.op in {"even", "head", "tail", "shuffle"}:
                raise ValueError(f"no channel map for {node.op}")
            else:  # each channel becomes width / len(read) neighbours: depthwise multiplier, flatten
                result = [label for label in read[0] for _ in range(width // len(read[0]))]
            self.labels[node.name] = result
        for labels in self.labels.values():
            labels[:] = [None if label is None else self._root(label) for label in labels]
        members: defaultdict[Element, set[Element]] = defaultdict(set)
        for node in filter(graph.is_feed, graph.nodes):
            for channel in range(graph.shapes[node.name][0]):
                element = (node.layer, channel)
                members[self._root(element)].add(element)
        self.groups: dict[Element, frozenset[Element]] = {k: frozenset(v) for k, v in members.items()}

    def _root(self, element: Element) -> Element:
        while element in self._parent:
            element = self._parent[element]
        return element

    def _unite(self, meeting: tuple[Element | None, ...]) -> Element | None:
        roots = [self._root(label) for label in meeting if label is not None]
        for other in roots[1:]:
            first, second = self._root(roots[0]), self._root(other)
            if first != second:
                self._parent[second] = first
        return self._root(roots[0]) if roots else None
