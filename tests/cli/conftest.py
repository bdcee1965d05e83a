import pytest

from dfpc_plugin.cli import main
from workflow_runs import DIGITS, trained_weights, write_recipe


@pytest.fixture
def dfpc(capsys, monkeypatch):
    """Run the command line; return exit code, standard output and standard error."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A file with trained weights of a small network on scikit-learn's digits."""
    return trained_weights(tmp_path_factory.mktemp("weights") / "net.safetensors")


@pytest.fixture(scope="session")
def saved(weights, tmp_path_factory):
    """That network, pruned by `dfpc prune` and not repaired."""
    place = tmp_path_factory.mktemp("saved")
    recipe = write_recipe(place / "recipe.yaml", DIGITS, model__weights=str(weights))
    bare = ["--repair.method", "none", "--quiet"]
    assert main(["prune", str(recipe), "--output", str(place / "net"), *bare]) == 0
    return place / "net"
