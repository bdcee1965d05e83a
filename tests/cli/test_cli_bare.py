import sys

import pytest
import yaml

from dfpc_plugin.cli.options import bare_argument
from dfpc_plugin.cli.prune import PruneConfig
from workflow_runs import write_recipe


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("r.yaml --output x", "r.yaml"),
        ("--output x r.yaml", "r.yaml"),
        ("--output=x r.yaml", "r.yaml"),
        ("--output x resnet50 --seed 3", "resnet50"),
        ("--quiet --no_json --overwrite r.yml", "r.yml"),
        ("--print_config r.yaml", "r.yaml"),
        ("-h r.yaml", "r.yaml"),
        ("--finetune.help r.yaml", "r.yaml"),
        ("--seed -1 --model.pretrained true r.yaml", "r.yaml"),
        ("--curve 0.8 0.6 r.yaml", "r.yaml"),
        ("--curve 0.8 0.6 --output x r.yaml", "r.yaml"),
        ("--curve=[0.8] r.yaml", "r.yaml"),
        ("--output x one two", "one"),
        ("--output r.yaml", None),
        ("--config r.yaml", None),
        ("--curve 0.8 0.6", None),
        ("--quiet", None),
        ("--output", None),
        ("", None),
    ],
)
def test_what_is_no_option_and_no_value_is_found(line, found):
    arguments = line.split()
    place = bare_argument(arguments, PruneConfig)
    assert (None if place is None else arguments[place]) == found


def printed(dfpc, *arguments):
    code, out, err = dfpc("prune", *arguments, "--print_config")
    assert (code, err) == (0, "")
    return yaml.safe_load(out)


def test_a_recipe_may_stand_anywhere_and_options_prevail_over_it(dfpc, tmp_path):
    recipe = write_recipe(tmp_path / "r.yaml", target="macs=0.8")
    options = ("--target", "macs=0.7", "--output", "x", "--quiet", "--curve", "0.9", "0.85")
    first = printed(dfpc, recipe, *options)
    assert (first["target"], first["output"], first["curve"]) == ("macs=0.7", "x", [0.9, 0.85])
    assert first["model"]["name"] == yaml.safe_load(recipe.read_text())["model"]["name"]
    for place in (2, 4, 5, 8):
        assert printed(dfpc, *options[:place], recipe, *options[place:]) == first


def test_a_model_may_stand_anywhere(dfpc):
    assert printed(dfpc, "--output", "x", "test_resnet")["model"]["name"] == "test_resnet"


def test_a_recipe_anywhere_is_checked_before_it_is_believed(dfpc, tmp_path):
    (tmp_path / "r.yaml").write_text("modle: {name: x}")
    code, out, err = dfpc("prune", "--output", tmp_path / "out", tmp_path / "r.yaml")
    assert (code, out) == (2, "")
    assert "has the key 'modle', which means nothing; did you mean 'model'?" in err


def test_one_bare_argument_too_many_is_refused_by_its_name(dfpc, tmp_path):
    code, out, err = dfpc("prune", "--output", tmp_path / "out", "test_resnet", "other.yaml")
    assert (code, out) == (2, "")
    assert err == "dfpc prune: 'other.yaml' belongs to no option. See dfpc prune --help.\n"
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_named_twice_is_refused(dfpc):
    code, _, err = dfpc("prune", "--model.name", "test_vit", "resnet18", "--print_config")
    assert (
        code == 2
        and "'resnet18' and --model.name are both given, and are the same option; give one of them."
        in " ".join(err.split())
    )


def test_a_function_in_the_directory_where_the_command_runs_is_found(dfpc, tmp_path, monkeypatch):
    """As the installed command has to; `python -m` looks there by itself."""
    module = tmp_path / "network_of_the_directory.py"
    module.write_text(
        "import torch\n\n\ndef net():\n    return torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Conv2d(8, 2, 3))\n"
    )
    (tmp_path / "yaml.py").write_text("raise ImportError('a file of the user hides a package')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry])
    arguments = (
        "network_of_the_directory:net",
        "--model.size",
        "8",
        "--target",
        "macs=0.8",
        "--output",
        "out",
        "--quiet",
    )
    assert dfpc("prune", *arguments) == (0, "", "")
    assert (tmp_path / "out" / "model.safetensors").is_file()
