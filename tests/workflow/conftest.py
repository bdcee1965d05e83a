import pytest

from workflow_runs import trained_weights


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A file with trained weights of the small network."""
    return trained_weights(tmp_path_factory.mktemp("weights") / "net.safetensors")
