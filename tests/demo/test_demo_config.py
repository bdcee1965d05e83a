"""The demo's options: what is accepted, and what the refusals say."""

from pathlib import Path

import pytest

from dfpc_plugin.demo import DemoConfig, DemoConfigError
from dfpc_plugin.errors import DFPCError


def test_lists_and_strings_are_accepted():
    config = DemoConfig(output="there", budgets=[0.5], criteria=["random"])
    assert (config.output, config.budgets, config.criteria) == (Path("there"), (0.5,), ("random",))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgets": (0.7, 1.5)}, "budgets[1] must be above 0 and below 1, not 1.5."),
        ({"budgets": ()}, "budgets must be one or more, each once, not ()."),
        ({"budgets": (0.5, 0.5)}, "budgets must be one or more, each once, not (0.5, 0.5)."),
        ({"criteria": ("magic",)}, "criteria='magic' is none of dfpc, "),
        ({"criteria": ()}, "criteria must be one or more, each once, not ()."),
        ({"random_seeds": 0}, "random_seeds must be 1 or more, not 0."),
        ({"threads": -1}, "threads must be 1 or more, not -1."),
        ({"batch_size": 0}, "batch_size must be 1 or more, not 0."),
        ({"latency_time": 0}, "latency_time must be above 0 and at most 60, not 0."),
        ({"seed": -3}, f"seed must be 0 to {2**63 - 1}, not -3."),
        ({"output": __file__}, "is a file; name a directory."),
    ],
)
def test_each_problem_is_named(options, message):
    with pytest.raises(DemoConfigError) as caught:
        DemoConfig(**options)
    assert message in str(caught.value)


def test_all_problems_are_named_at_once():
    with pytest.raises(DFPCError) as caught:
        DemoConfig(budgets=(2.0,), threads=0, seed=-1)
    text = str(caught.value)
    assert text.startswith(
        f"budgets[0] must be above 0 and below 1, not 2.0. seed must be 0 to {2**63 - 1}, not -1. threads must be 1"
    )
