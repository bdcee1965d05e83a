"""Records of operators are whole: every analysis is served, and every spelling of an operator has the same record."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import dfpc_plugin.ops
from dfpc_plugin import registered_rules
from dfpc_plugin.errors import DuplicateRuleError
from dfpc_plugin.tracing import operator as table
from dfpc_plugin.tracing.operator import (
    CONSTANTS,
    METADATA,
    VALUES,
    Means,
    Operator,
    find_operator,
    function_name,
    register,
)

RECORDS = dict(registered_rules())

HOMES = (torch, Tensor, F, torch._C._nn, torch.special, torch.linalg)

UNKNOWN_SPELLINGS = {
    **{
        f"{name} of Tensor": "changes a tensor's shape in place"
        for name in ("swapaxes_", "swapdims_", "transpose_", "t_", "squeeze_", "unsqueeze_")
    },
    "tril_ of Tensor": "sets entries to zero in place",
    "triu_ of Tensor": "sets entries to zero in place",
    "diagonal of torch.linalg": "takes other axes than torch.diagonal",
    "pad of torch._C._nn": "is called by F.pad, which has a record",
}
"""Spellings that torch has and the table does not, and why."""

OTHER_ARGUMENTS = {"embedding", "batch_norm", "norm"}
"""Names under which torch has two functions with other arguments, or another order of them; each has a record of its own."""

ALIASES = [
    ("abs", "absolute"), ("acos", "arccos"), ("acosh", "arccosh"), ("asin", "arcsin"), ("asinh", "arcsinh"), ("atan", "arctan"),
    ("atanh", "arctanh"), ("atan2", "arctan2"), ("cat", "concat"), ("cat", "concatenate"), ("clamp", "clip"), ("div", "divide"),
    ("div", "true_divide"), ("mul", "multiply"), ("sub", "subtract"), ("neg", "negative"), ("trunc", "fix"), ("gt", "greater"),
    ("ge", "greater_equal"), ("lt", "less"), ("le", "less_equal"), ("ne", "not_equal"), ("transpose", "swapaxes"),
    ("transpose", "swapdims"), ("movedim", "moveaxis"), ("sigmoid", "expit"), ("digamma", "psi"), ("lgamma", "gammaln"),
    ("matmul", "__matmul__"), ("mul", "__imul__"), ("div", "__truediv__"), ("pow", "__ipow__"), ("bitwise_and", "__and__"),
    ("neg", "__neg__"), ("abs", "__abs__"), ("bitwise_not", "__invert__"), ("gt", "__gt__"), ("eq", "__eq__"),
]  # fmt: skip
"""Two names of one operator."""

PYTHON_OPERATORS = "add sub mul truediv floordiv mod pow matmul and or xor".split()


def spelled(name: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every function that torch has under a name, in place or not, with where it is."""
    for spelling in (name, f"{name}_"):
        for home in HOMES:
            function = getattr(home, spelling, None)
            if callable(function) and not inspect.isclass(function) and not inspect.ismodule(function):
                yield f"{spelling} of {getattr(home, '__name__', home)}", function


def known_names() -> list[str]:
    """Every name under which torch has a function that is in the table; Python's own names of operators left out."""
    found = set()
    for home in HOMES:
        for name in dir(home):
            function = getattr(home, name, None)
            plain = not name.startswith("__") and callable(function) and not inspect.isclass(function)
            if plain and function.__hash__ is not None and function in RECORDS:
                found.add(name.rstrip("_"))
    return sorted(found - {""})


NAMES = known_names()


def content(record: Operator) -> tuple[Any, ...]:
    """What a record says, where one function is made anew for every spelling."""
    return (
        record.bound.__qualname__, record.bound.__name__, record.summary, record.convention, record.means, record.kind,
        record.context, record.couples, record.view, record.additive, record.first_only, record.dtypes,
        getattr(record.channels, "__qualname__", None), getattr(record.noise, "__qualname__", None),
    )  # fmt: skip


def first_of(name: str) -> Callable[..., Any]:
    """The first function that torch has under a name; names of Python's operators are those of tensors."""
    homes = (Tensor,) if name.startswith("__") else HOMES
    return next(getattr(home, name) for home in homes if hasattr(home, name))


def test_the_table_is_that_of_the_package() -> None:
    assert len(RECORDS) > 800 and len(NAMES) > 350


def test_every_record_serves_every_analysis() -> None:
    for function, record in RECORDS.items():
        assert callable(record.bound) and record.summary, function_name(function)
        if record.kind == "composed":
            assert record.channels is None, "its parts say what becomes of channels"
        else:
            assert record.channels is not None, function_name(function)


def test_means_are_declared_with_what_they_need() -> None:
    for function, record in RECORDS.items():
        assert (record.noise is not None) == (record.means is Means.OWN), function_name(function)
        assert record.compute is None or record.means is Means.POINTWISE, function_name(function)
        if record.kind == "pointwise" and not record.summary.startswith("Zero"):
            assert record.means is not Means.AS_BOUNDS, f"{function_name(function)} has a function to integrate"


def test_no_operator_is_both_followed_and_answered_from_its_shape() -> None:
    both = set(RECORDS) & (METADATA | CONSTANTS | VALUES)
    assert not {function_name(function) for function in both}


def test_every_spelling_is_known() -> None:
    answered = METADATA | CONSTANTS | VALUES
    unknown = {
        place
        for name in NAMES
        for place, function in spelled(name)
        if function not in RECORDS and function not in answered
    }
    assert unknown == set(UNKNOWN_SPELLINGS)


def test_spellings_have_the_same_record() -> None:
    different = defaultdict(list)
    for name in NAMES:
        records = {id(RECORDS[f]): RECORDS[f] for _, f in spelled(name) if f in RECORDS}
        if len({content(record) for record in records.values()}) > 1:
            different[name] = [record.summary for record in records.values()]
    assert set(different) <= OTHER_ARGUMENTS, different


@pytest.mark.parametrize(("name", "alias"), ALIASES, ids=lambda name: name)
def test_aliases_have_the_same_record(name: str, alias: str) -> None:
    one, other = find_operator(first_of(name)), find_operator(first_of(alias))
    assert one is not None and other is not None
    assert content(one)[2:] == content(other)[2:]


def test_different_operators_are_told_apart() -> None:
    """What the tests above rely on."""
    for one, other in (("relu", "sigmoid"), ("topk", "sum"), ("add", "mul"), ("amax", "mean")):
        assert content(RECORDS[first_of(one)]) != content(RECORDS[first_of(other)])


@pytest.mark.parametrize("name", PYTHON_OPERATORS)
def test_operators_of_python_are_known_in_every_form(name: str) -> None:
    for spelling in (f"__{name}__", f"__r{name}__", f"__i{name}__"):
        function = getattr(Tensor, spelling, None)
        assert function is None or find_operator(function) is not None, spelling


def test_no_function_is_registered_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules with records are executed once more, into an empty table that refuses a second record."""
    modules = sorted(Path(dfpc_plugin.ops.__file__).parent.glob("*.py"))
    monkeypatch.setattr(table, "_PROCESS", {})
    monkeypatch.setattr(table, "_BY_NAME", {})
    owners: dict[Any, str] = {}
    for path in modules:
        assert path.name == "record.py" or "override" not in path.read_text(encoding="utf-8"), path.name
        if path.stem in ("__init__", "record"):
            continue
        spec = importlib.util.spec_from_file_location(f"again_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        owners |= {function: path.stem for function in table._PROCESS if function not in owners}
    assert owners.keys() == RECORDS.keys()
    with pytest.raises(DuplicateRuleError, match="relu"):
        register((torch.relu,), RECORDS[torch.relu])
