"""`dfpc demo`."""

from __future__ import annotations

from dfpc_plugin.cli.consoles import Consoles, bars
from dfpc_plugin.demo import DemoConfig, run_demo

__all__ = ["DemoConfig", "run"]


def run(config: DemoConfig, consoles: Consoles) -> None:
    """Prune a small trained network by several criteria, without data, and compare them at equal cost."""
    with bars(consoles.err) as tell:
        run_demo(config, consoles.out, tell)
