"""The list of a model's couplings that users get."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rich.table import Column, Table
from rich.text import Text

from dfpc_plugin.couplings.coupling import DataFlowCoupling
from dfpc_plugin.couplings.picture import draw_couplings
from dfpc_plugin.display import Shown, as_text, counted, first_and_more, number_columns, percent, plain_table
from dfpc_plugin.display.html import Svg
from dfpc_plugin.files import write_text

_SHORT = 16
"""Rows of the short table, which fits a screen of 24 lines."""
_LONGEST = 20
"""Names up to this length are whole, with the number of other layers behind them, beside a reason of ten columns."""


class Couplings(list[DataFlowCoupling], Shown):
    """The couplings of a model: a list that is shown as a table, and that `plot` draws.

    Attributes:
        order: Paths of the model's modules in the order of the forward.
    """

    def __init__(self, couplings: Iterable[DataFlowCoupling] = (), order: tuple[str, ...] = ()) -> None:
        """Hold `couplings` in their order."""
        super().__init__(couplings)
        self.order = order

    def plot(self, path: str | Path | None = None) -> Svg:
        """Draw the coupling graph: a row per layer, a vertical line per coupling. Needs no other package.

        A layer reads the couplings at the hollow dots of its row and writes those at the solid dots.

        Args:
            path: Also write the picture to this file.

        Returns:
            The picture as SVG, which notebooks show.

        Raises:
            OutputError: The file cannot be written.
        """
        picture = draw_couplings(self, self.order)
        if path is not None:
            write_text(Path(path), picture)
        return picture

    @property
    def summary(self) -> str:
        """The number of couplings, in one line."""
        prunable = sum(coupling.protected is None for coupling in self)
        return f"{counted(len(self), 'coupling')}, {prunable} can be pruned"

    def __str__(self) -> str:
        """The table of all couplings."""
        return as_text(self.summary, _table(self, whole=True))

    def __repr__(self) -> str:
        """The table of the first couplings."""
        parts: list[str | Table] = [self.summary, _table(self[:_SHORT], whole=False)]
        if len(self) > _SHORT:
            parts.append(f"and {len(self) - _SHORT} more; print it for all of them")
        return as_text(*parts)


def _table(couplings: Iterable[DataFlowCoupling], *, whole: bool) -> Table:
    """One row per coupling; reasons are cut off at the line's end unless `whole`."""
    rows = [(one, one.feed_in or (one.name,)) for one in couplings]
    among = list(dict.fromkeys(name for one, written in rows for name in (written[0], *one.feed_out[:1])))
    others = max((len(layers) - 1 for one, written in rows for layers in (written, one.feed_out)), default=0)
    beside = len(f" +{others}") if others > 0 else 0
    no_wrap = max(map(len, among), default=0) <= _LONGEST  # reasons make room for names that are not very long
    layers = (Column(heading, min_width=14, no_wrap=no_wrap) for heading in ("written by", "read by"))
    table = plain_table(*layers, *number_columns("channels", "MACs"), Column("protected", min_width=10))
    for one, written in rows:
        reason = Text(one.protected or "", no_wrap=not whole, overflow="fold" if whole else "ellipsis")
        names = (first_and_more(own, among, beside) for own in (written, one.feed_out))
        table.add_row(*names, str(one.width), percent(one.macs), reason)
    return table
