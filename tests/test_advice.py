"""Messages name settings as the user writes them: in Python, or as options of the command that runs."""

import functools

import pytest

from dfpc_plugin.advice import call, setting, spelt_by
from dfpc_plugin.cli import COMMANDS
from dfpc_plugin.cli.options import as_option, how_to_give_several

COMPARE = COMMANDS["compare"][0]


def test_in_python_settings_are_keyword_arguments():
    assert setting("round_to", 8) == "round_to=8"
    assert setting("repair", "merge") == "repair='merge'"
    assert setting("ignored_layers") == "ignored_layers"
    assert call("find_couplings", "couplings MODEL") == "find_couplings"


@pytest.mark.parametrize(
    ("command", "name", "value", "text"),
    [
        ("prune", "round_to", 8, "--prune.round_to 8"),
        ("prune", "overwrite", True, "--overwrite"),
        ("prune", "download", True, "--data.download"),
        ("prune", "repair", "merge", "--repair.method merge"),
        ("prune", "ignored_layers", None, "--prune.ignored_layers"),
        ("prune", "num_classes", 7, "--model.options.num_classes 7"),
        ("prune", "batch_size", 7, "batch_size=7"),  # of several sections
        ("evaluate", "num_classes", 7, "--options.num_classes 7"),
        ("export", "dynamic_batch", False, "--no_dynamic_batch"),
        ("bench", "dynamic_batch", False, "dynamic_batch=False"),  # it has no such option
    ],
)
def test_in_a_command_they_are_its_options(command, name, value, text):
    with spelt_by(functools.partial(as_option, COMMANDS[command][0])):
        assert setting(name, value) == text
        assert call("find_couplings", "couplings MODEL") == "dfpc couplings MODEL"
    assert "--" not in setting(name, value)


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--criteria", "dfpc,lamp"], "'dfpc,lamp' is unknown", " Write several values as --criteria dfpc lamp."),
        (["--criteria", "dfpc lamp"], "'dfpc lamp' is unknown", " Write several values as --criteria dfpc lamp."),
        (["--seeds", "[0,", "1]"], "'[0,' is no number", ""),
        (["--criteria", "dfpc,lamp"], "The model is unknown", ""),
        (["--criteria", "dfpc", "lamb"], "'lamb' is unknown", ""),
        (["--data", "a,b"], "'a,b' is no folder", ""),
    ],
)
def test_several_values_are_separated_by_spaces(arguments, message, hint):
    assert how_to_give_several(arguments, COMPARE, message) == hint


def test_in_sections_several_values_are_a_list():
    hint = how_to_give_several(["--prune.ignored_layers", "a,b"], COMMANDS["prune"][0], "got 'a,b'")
    assert hint == " Write several values as --prune.ignored_layers '[a, b]'."
