import time

import pytest

from dfpc_plugin.cli import COMMANDS
from dfpc_plugin.cli.explain import explain
from dfpc_plugin.cli.options import option_types

OPTIONS = list(option_types(COMMANDS["prune"][0]))


def explained(message, chosen="prune"):
    return explain(message, chosen, list(COMMANDS), OPTIONS if chosen else [])


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            "unrecognized arguments: --targt x",
            "dfpc prune: unrecognized arguments: --targt x; did you mean --target? See dfpc prune --help.",
        ),
        (
            "unrecognized arguments: --targt=x",
            "dfpc prune: unrecognized arguments: --targt=x; did you mean --target? See dfpc prune --help.",
        ),
        ("unrecognized arguments: other.yaml", "dfpc prune: 'other.yaml' belongs to no option. See dfpc prune --help."),
        (
            "unrecognized arguments: macs=0.7",
            "dfpc prune: 'macs=0.7' belongs to no option; did you mean --target macs=0.7? See dfpc prune --help.",
        ),
        ("unrecognized arguments: --qqqqqq", "dfpc prune: unrecognized arguments: --qqqqqq. See dfpc prune --help."),
        ('Option "model.name" is required', "dfpc prune: model.name is missing. See dfpc prune --help."),
        (
            "Parser key \"repair.method\":\n  Expected a typing.Literal['none', 'merge']. Got value: merg",
            "dfpc prune: repair.method must be one of 'none', 'merge', not 'merg'; did you mean merge? See dfpc prune --help.",
        ),
        (
            "Parser key \"repair.method\":\n  Expected a typing.Literal['none', 'merge']. Got value: zzz",
            "dfpc prune: repair.method must be one of 'none', 'merge', not 'zzz'. See dfpc prune --help.",
        ),
        (
            "repair: Unable to load config 'merge' - repair: Unable to load config \"merge\"",
            "dfpc prune: 'merge' is no option of repair, which is a section; give one of its options, such as --repair.method merge. See dfpc prune --help.",
        ),
        (
            "Parser key \"seed\": Expected a <class 'int'>. Got value: x",
            "dfpc prune: seed: Expected a int. Got value: x. See dfpc prune --help.",
        ),
        ("Something never heard of.", "dfpc prune: Something never heard of. See dfpc prune --help."),
    ],
)
def test_messages_in_the_words_of_those_who_type(message, text):
    assert explained(message) == text


def test_an_unknown_command_gets_the_nearest():
    text = explained("invalid choice: 'prun' (choose from prune)", "")
    assert text.endswith("did you mean prune? See dfpc --help.")


def test_a_command_that_is_an_option_too_keeps_its_name():
    """Commands are named as options are: of `prune`, both are."""
    assert explained('Parser key "prune.prune.per": x').startswith("dfpc prune: prune.per: x")
    assert explained('Parser key "prune.target": x').startswith("dfpc prune: target: x")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("sign", ["x", "x.", "\n", " - ", "\n - x", "{"])
def test_a_very_long_value_takes_no_longer_than_it_should(sign):
    start = time.process_time()
    text = explained(f"Parser key \"model.pretrained\":\n  Expected a <class 'bool'>. Got value: {sign * 100_000}")
    assert time.process_time() - start < 3 and len(text) < 21_000
