"""Bars where somebody is looking, and nowhere else."""

import io
import sys
import threading
import types

import pytest
from rich.console import Console

from dfpc_plugin.progress import displays, shown, shown_share, silenced
from dfpc_plugin.progress import shown as _function

module = sys.modules[_function.__module__]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A terminal that is watched, where calls are long at once."""
    stream = Terminal()
    monkeypatch.setattr(module, "sys", types.SimpleNamespace(stderr=stream))  # pytest puts its own back for every test
    console = Console(file=stream, force_terminal=True, width=80)
    monkeypatch.setattr(module, "TerminalBars", lambda: displays.TerminalBars(console))
    monkeypatch.setattr(module, "_PATIENCE", 0.01)
    stream.environment = {}  # pytest's own says that this is a test
    monkeypatch.setattr(module, "os", types.SimpleNamespace(environ=stream.environment))
    monkeypatch.setenv("TERM", "xterm")
    return stream


def work(progress=None, name="saliency"):
    """A call that takes a while and tells little."""
    with shown(progress) as tell:
        if tell is not None:
            tell(name, 0.5)
        threading.Event().wait(0.15)
    return tell


def test_a_long_call_in_a_terminal_shows_bars_that_go_away(terminal):
    assert work(name="saliency [of all]") is not None
    assert "saliency [of all]" in terminal.getvalue()
    assert terminal.getvalue().endswith("\x1b[2K") or "\x1b[?25h" in terminal.getvalue()  # erased; the cursor is back


def test_a_short_call_shows_nothing(terminal, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 60.0)
    work()
    assert terminal.getvalue() == ""
    assert not any(
        isinstance(thread, threading.Timer) and thread.finished.is_set() is False for thread in threading.enumerate()
    )


@pytest.mark.parametrize("name", ["CI", "PYTEST_CURRENT_TEST"])
def test_nothing_in_ci_and_in_tests(terminal, name):
    terminal.environment[name] = "true"
    assert work() is None
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("value", ["0", "off", "False"])
def test_the_setting_silences_all_calls(terminal, value):
    terminal.environment["DFPC_PROGRESS"] = value
    assert work() is None
    assert work(True) is not None  # but what is asked for


def test_nothing_in_a_pipe(terminal, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(module.sys, "stderr", stream)
    assert work() is None
    assert stream.getvalue() == ""


def test_false_is_silence_for_all_that_is_called_within(terminal):
    with shown(False) as tell:
        assert tell is None
        assert work() is None
    with silenced():
        assert work() is None
    assert terminal.getvalue() == ""


def test_calls_within_a_call_that_is_shown_draw_nothing_of_their_own(terminal):
    told = []
    with shown(lambda name, share: told.append((name, share))) as tell:
        tell("outer", 0.5)
        assert work() is None
    assert told == [("outer", 0.5)] and terminal.getvalue() == ""


def test_one_of_several_threads_draws(terminal):
    with shown(None) as tell:
        assert tell is not None
        found = []
        thread = threading.Thread(target=lambda: found.append(work()))
        thread.start()
        thread.join()
    assert found == [None]
    assert work() is not None  # the next one may


def test_bars_are_taken_away_when_the_work_fails(terminal):
    with pytest.raises(KeyError), shown(True) as tell:
        tell("cut", 0.2)
        raise KeyError
    assert work() is not None


def test_shares_of_one_kind_of_work():
    told = []
    with shown_share(told.append, "timing") as tell:
        tell(0.5)
    assert told == [0.5]
    with shown_share(False, "timing") as tell:
        assert tell is None


class Handle:
    def __init__(self, content):
        self.shown = [content]

    def update(self, content, raw):
        assert raw
        self.shown.append(content)


def test_a_notebook_gets_bars_without_other_packages(monkeypatch):
    """IPython alone is asked for; names are escaped, and nothing is left at the end."""
    handles = []

    def display(content, raw, display_id):
        assert raw and display_id
        handles.append(Handle(content))
        return handles[-1]

    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
    monkeypatch.setattr(displays, "_EVERY", 0.0)
    with shown(True) as tell:
        tell("layers <b>", 0.25)
        tell("done", 1.0)
    (handle,) = handles
    last, end = handle.shown[-2:]
    assert '<progress value="0.250"' in last["text/html"] and "layers &lt;b&gt; 25%" in last["text/html"]
    assert "done" not in last["text/html"] and last["text/plain"] == "layers <b> 25%"
    assert end == {"text/html": "<span></span>", "text/plain": ""}
    assert "ipywidgets" not in sys.modules
