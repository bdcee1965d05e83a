"""The coupling graph of a model as a picture.

Layers are rows, in the order of the forward; couplings are vertical lines from the first layer to the last that touches them.
Long lines are on the left, so a residual stream is a rail beside its blocks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from dfpc_plugin.couplings.coupling import DataFlowCoupling
from dfpc_plugin.display.html import Svg

_ROW, _LANE, _LEFT, _TOP, _CHARACTER = 18, 16, 14, 64, 6.7
_STYLES = {"one layer": "#0072B2", "several layers, coupled": "#D55E00", "protected": "#8A8F98"}
_CSS = (
    "text{font:12px ui-sans-serif,system-ui,sans-serif;fill:#1c1e21}.name{font-family:ui-monospace,monospace;font-size:11px}"
    ".soft{fill:#6b7077}.row{stroke:#c9cdd3}.lane{stroke-width:2.5;fill:none}"
)


@dataclass(frozen=True)
class _Lane:
    """One coupling in the picture: its rows and its column."""

    coupling: DataFlowCoupling
    first: int
    last: int
    column: int

    @property
    def x(self) -> float:
        return _LEFT + _LANE * self.column

    @property
    def colour(self) -> str:
        one, several, protected = _STYLES.values()
        if self.coupling.protected is not None:
            return protected
        return one if len(self.coupling.feed_in) == 1 else several


def draw_couplings(couplings: Iterable[DataFlowCoupling], order: Sequence[str] = ()) -> Svg:
    """Draw couplings that some layer writes or reads, with layers in the `order` of the forward."""
    drawn = [coupling for coupling in couplings if coupling.feed_in or coupling.feed_out]
    rows = _rows(drawn, order)
    lanes = _lanes(drawn, rows)
    columns = max((lane.column for lane in lanes), default=0) + 1
    names_at = _LEFT + _LANE * columns + 6
    sizes = _sizes(drawn)
    longest = max((len(name) + len(sizes[name]) + 2 for name in rows), default=0)
    width = max(names_at + round(_CHARACTER * longest) + 12, 460)
    height = _TOP + _ROW * len(rows) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f'<style>{_CSS}</style><rect width="100%" height="100%" fill="#fff"/>',
        *_key(),
        *(_drawn_row(name, row, lanes, names_at, sizes[name]) for name, row in rows.items()),
        *map(_drawn_lane, lanes),
        *(_dots(name, row, lanes) for name, row in rows.items()),
        "</svg>",
    ]
    return Svg("\n".join(parts))


def _rows(couplings: Sequence[DataFlowCoupling], order: Sequence[str]) -> dict[str, int]:
    names = dict.fromkeys(name for coupling in couplings for name in (*coupling.feed_in, *coupling.feed_out))
    position = {path: index for index, path in enumerate(order)}

    def place(name: str) -> int:
        """Position of a module, or of the module of a parameter."""
        return position.get(name, position.get(name.rpartition(".")[0], len(position)))

    return {name: row for row, name in enumerate(sorted(names, key=place))}


def _lanes(couplings: Sequence[DataFlowCoupling], rows: dict[str, int]) -> list[_Lane]:
    """Give every coupling, longest first, the leftmost column that is free from its first to its last row."""
    spans = []
    for coupling in couplings:
        touched = [rows[name] for name in (*coupling.feed_in, *coupling.feed_out)]
        spans.append((min(touched), max(touched), coupling))
    taken: dict[int, list[tuple[int, int]]] = defaultdict(list)
    lanes = []
    for first, last, coupling in sorted(spans, key=lambda span: (span[0] - span[1], span[0])):
        column = 0
        while any(first <= end and start <= last for start, end in taken[column]):
            column += 1
        taken[column].append((first, last))
        lanes.append(_Lane(coupling, first, last, column))
    return lanes


def _sizes(couplings: Iterable[DataFlowCoupling]) -> dict[str, str]:
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for axis in (axis for coupling in couplings for axis in coupling.axes):
        found[axis.layer][axis.role] = len(axis.channels)
    return {name: f"{sizes.get('feed-out', '')} → {sizes.get('feed-in', '')}" for name, sizes in found.items()}


def _key() -> Iterable[str]:
    x = _LEFT
    for label, colour in _STYLES.items():
        yield f'<path class="lane" stroke="{colour}" d="M{x} 16h18"/><text x="{x + 24}" y="20">{label}</text>'
        x += 44 + round(6.4 * len(label))
    for label, fill in (("reads", "#fff"), ("writes", "#1c1e21")):
        at = _LEFT + 4 + (0 if label == "reads" else 80)
        yield f'<circle cx="{at}" cy="38" r="4" fill="{fill}" stroke="#1c1e21"/><text x="{at + 10}" y="42">{label}</text>'


def _y(row: int) -> float:
    return _TOP + _ROW * (row + 0.5)


def _touching(name: str, lanes: Iterable[_Lane]) -> list[_Lane]:
    return [lane for lane in lanes if name in lane.coupling.feed_in or name in lane.coupling.feed_out]


def _drawn_row(name: str, row: int, lanes: Sequence[_Lane], names_at: int, sizes: str) -> str:
    """The layer's name, and a line from its first coupling to the name."""
    left = min(lane.x for lane in _touching(name, lanes))
    return (
        f'<path class="row" d="M{left} {_y(row)}H{names_at - 6}"/><text class="name" x="{names_at}" y="{_y(row) + 4}">'
        f'{escape(name)} <tspan class="soft" dx="6">{sizes}</tspan></text>'
    )


def _drawn_lane(lane: _Lane) -> str:
    dashes = ' stroke-dasharray="3 3"' if lane.coupling.protected is not None else ""
    return (
        f'<path class="lane" stroke="{lane.colour}"{dashes} d="M{lane.x} {_y(lane.first)}V{_y(lane.last) + 0.01}">'
        f"<title>{escape(str(lane.coupling))}</title></path>"
    )


def _dots(name: str, row: int, lanes: Sequence[_Lane]) -> str:
    """Dots where the layer reads (hollow) or writes (solid) couplings."""
    dots = []
    for lane in _touching(name, lanes):
        fill = lane.colour if name in lane.coupling.feed_in else "#fff"
        dots.append(
            f'<circle cx="{lane.x}" cy="{_y(row)}" r="4" fill="{fill}" stroke="{lane.colour}" stroke-width="2"/>'
        )
    return "".join(dots)
