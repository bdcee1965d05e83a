"""The stages of `.ci/run` one by one, and the tests on other versions: `nox --list` names them.

The stages run in the environment that nox is started from, and are those of `.ci/stages`. The sessions `matrix` make fresh
environments.
"""

from __future__ import annotations

import re
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
TORCHES = ("2.4", "newest")
TOO_OLD = {("3.13", "2.4")}
"""Pairs that torch has no wheels for."""


def _stages() -> dict[str, str]:
    """Commands by the names of the stages."""
    lines = (ROOT / ".ci" / "stages").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(": ") for line in lines if not line.startswith("#"))
    return {name.replace(" ", "-"): command for name, _, command in pairs}


def _readme_command(extra: str) -> str:
    """What the README runs after it has installed an extra."""
    line = re.search(rf'^python3 .*"\.\[{extra}\]".*$', (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert line is not None, f"README.md needs one command for the extra '{extra}'"
    return line[0].split(" && ")[-1].removeprefix(".venv/bin/")


def _register(name: str, command: str) -> None:
    """Make a session of a command."""

    def session(session: nox.Session) -> None:
        session.run(*command.split(), *session.posargs, external=True)

    session.__doc__ = f"Run `{command}`."
    nox.session(session, name=name, venv_backend="none")


_register("demo", _readme_command("demo"))
_register("tests", _readme_command("test"))
for _name, _command in _stages().items():
    _register(_name, _command)


@nox.session(default=False)
@nox.parametrize(("python", "torch"), [(p, t) for p in PYTHONS for t in TORCHES if (p, t) not in TOO_OLD])
def matrix(session: nox.Session, torch: str) -> None:
    """Run the tests in a fresh environment with a version of Python and of torch."""
    pinned = [] if torch == "newest" else [f"torch=={torch}.*"]
    session.install("-e", ".[test]", *pinned)
    session.run(*_readme_command("test").split(), *session.posargs)
