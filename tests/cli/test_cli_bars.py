import io

import pytest
from rich.console import Console

from dfpc_plugin.cli import consoles as module
from dfpc_plugin.cli.consoles import bars


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module.time, "monotonic", clock.monotonic)
    return clock


@pytest.fixture
def console():
    return Console(file=io.StringIO(), force_terminal=False, width=40)


def test_short_work_says_nothing(clock, console):
    with bars(console) as tell:
        for name in ("saliency", "cut"):
            for share in (0.0, 0.5, 1.0):
                tell(name, share)
                clock.now += 0.6
    assert console.file.getvalue() == ""


def test_long_work_says_so_after_two_seconds_then_every_quarter_of_a_minute(clock, console):
    with bars(console) as tell:
        for second in range(41):
            tell("measuring [it]", second / 40)
            clock.now += 1
    assert console.file.getvalue().splitlines() == ["measuring [it]: 5%", "measuring [it]: 42%", "measuring [it]: 80%"]


def test_short_work_in_turns_is_not_silent_for_ever(clock, console):
    with bars(console) as tell:
        for step in range(60):
            tell("cutting" if step % 2 else "tuning", 0.25)
            clock.now += 1
    lines = console.file.getvalue().splitlines()
    assert 3 <= len(lines) <= 4
    assert set(lines) <= {"cutting: 25%", "tuning: 25%", "tuning: 25%, cutting: 25%"}


def test_a_line_says_what_the_work_is_a_part_of(clock, console):
    with bars(console) as tell:
        for cell in range(4):
            tell("comparing", cell / 4)
            for share in (0.0, 0.5, 1.0):
                tell("evaluating", share)
                clock.now += 5
    assert set(console.file.getvalue().splitlines()) >= {"comparing: 25%, evaluating: 50%"}
    assert not [line for line in console.file.getvalue().splitlines() if "100%" in line]


def test_what_is_done_needs_no_line(clock, console):
    with bars(console) as tell:
        tell("layers", 0.0)
        clock.now += 60
        tell("layers", 1.0)
    assert console.file.getvalue() == ""


def test_quiet_is_quiet(clock, console):
    with bars(console, quiet=True) as tell:
        for share in (0.0, 0.5):
            tell("layers", share)
            clock.now += 60
    assert console.file.getvalue() == ""


def test_bars_in_a_terminal_go_away():
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with bars(console) as tell:
        tell("layers [of all]", 0.5)
        tell("layers [of all]", 1.0)
    shown = console.file.getvalue()
    assert "layers [of all]" in shown
    assert "\x1b[?25h" in shown  # the cursor is back


def test_an_environment_variable_silences_the_command(clock, console, monkeypatch):
    monkeypatch.setenv("DFPC_PROGRESS", "0")
    with bars(console) as tell:
        tell("saliency", 0.0)
        clock.now += 60
        tell("saliency", 0.5)
    assert console.file.getvalue() == ""
