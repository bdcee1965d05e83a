import pytest

from dfpc_plugin.cli import main


@pytest.fixture
def dfpc(capsys, monkeypatch):
    """Run the command line; return exit code, standard output and standard error."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
