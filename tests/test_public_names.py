"""`import dfpc_plugin` imports nothing else, and has every public name all the same."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dfpc_plugin

STUB = ast.parse(Path(dfpc_plugin.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))


def test_importing_the_package_imports_no_library():
    program = "import sys, dfpc_plugin; print(dfpc_plugin.__version__, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert (done.stdout, done.stderr) == (f"{dfpc_plugin.__version__} False\n", "")


@pytest.mark.parametrize("name", dfpc_plugin.__all__)
def test_every_public_name_is_there(name):
    assert getattr(dfpc_plugin, name) is not None


@pytest.mark.parametrize(
    "first", ["dfpc_plugin.find_couplings", "import dfpc_plugin.report", "from dfpc_plugin.host import DFPCPruner"]
)
def test_imports_draw_no_random_numbers(first):
    """rich draws one when it is imported."""
    program = (
        f"import random; before = random.getstate(); import dfpc_plugin; {first}; print(random.getstate() == before)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.stdout == "True\n", done.stderr


def test_type_checkers_see_the_same_names():
    listed = next(node.value for node in STUB.body if isinstance(node, ast.Assign))
    imported = [alias.name for node in STUB.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    assert ast.literal_eval(listed) == dfpc_plugin.__all__ == sorted(imported) == dir(dfpc_plugin)


def test_modules_can_be_reached_through_the_package():
    program = "import dfpc_plugin; print(dfpc_plugin.errors.DFPCError.__name__, hasattr(dfpc_plugin, 'errrors'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.stdout == "DFPCError False\n"
    with pytest.raises(AttributeError, match="module 'dfpc_plugin' has no attribute 'no_such_name'"):
        _ = dfpc_plugin.no_such_name


@pytest.mark.parametrize("first", ["dfpc.bgsc(nn.Linear(2, 2), torch.ones(1, 2))", "dfpc_plugin.trace"])
def test_rules_stay_when_they_are_first_needed_inside_a_scope(first):
    """What is imported inside `rule_scope` registers the package's own rules, which are not the scope's."""
    program = f"""
import dfpc_plugin as dfpc, torch
from torch import nn
with dfpc.rule_scope():
    import dfpc_plugin.trace
    {first}
assert nn.functional.linear in dfpc.registered_rules()"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
