"""The errors that users of this package meet; every message says what was wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "CutError",
    "DFPCError",
    "DuplicateRuleError",
    "ExampleInputsError",
    "ForwardError",
    "GroupError",
    "HookError",
    "MissingDependencyError",
    "MissingOperator",
    "ModelChangedError",
    "ModelFormError",
    "NonFiniteScoreError",
    "NonFiniteWeightError",
    "NothingToPruneError",
    "OptionNameError",
    "PrunerSettingError",
    "RegistryError",
    "RepairError",
    "RuleError",
    "UnknownModelError",
    "UnsupportedOperatorError",
    "ValueDependentError",
    "system_reason",
]


def system_reason(error: BaseException) -> str:
    """Return why a file cannot be used: what the operating system says, without the path, or what the error says."""
    return str(getattr(error, "strerror", None) or error)


@dataclass(frozen=True)
class MissingOperator:
    """An operator without a rule.

    Attributes:
        function: Its name, as the model's author would write it.
        modules: Dotted paths of the modules that called it ('' is the model itself), in order of first call.
    """

    function: str
    modules: tuple[str, ...]


class DFPCError(Exception):
    """Base class of every error raised on purpose by this package."""


class UnsupportedOperatorError(DFPCError):
    """The model calls operators that have no data-flow rule.

    Attributes:
        missing: Every operator without a rule, with the modules that called it.
    """

    def __init__(
        self, missing: Iterable[MissingOperator], stopped_by: str | None = None, *, needs_values: bool = False
    ) -> None:
        """Describe all of `missing` at once; `stopped_by` says why later operators could not be looked at.

        `needs_values`: it was because the forward asked for the values of its data, which no rule can give.
        """
        self.missing = tuple(missing)
        lines = [f"{len(self.missing)} operator(s) of this model have no data-flow rule:"]
        lines += [
            f"  {entry.function}, called by {', '.join(path or 'the model itself' for path in entry.modules)}"
            for entry in self.missing
        ]
        if stopped_by:
            lines.append(f"The pass stopped there ({stopped_by}); operators that come later are not listed.")
        if needs_values:
            lines.append(
                "The forward needs the values of the data there, and there are none here: pass a forward_fn that leaves out "
                "what depends on values. Operators that only that part calls need no rule then."
            )
        lines.append(
            "Register a rule for each: decorate a function that does the same by other operators with "
            "@dfpc_plugin.composed(the_operator), or a function from bounds to bounds with @dfpc_plugin.rule(the_operator, "
            'kind="pointwise"); for the process, or inside `with dfpc_plugin.rule_scope():`.'
        )
        super().__init__("\n".join(lines))


class ValueDependentError(DFPCError):
    """The model's forward needs the values of its data, which a pass without data does not have."""

    def __init__(self, function: str, module: str) -> None:
        """Name the `function` that asked for values and the `module` that called it."""
        super().__init__(
            f"{function} in module '{module}' needs the values of the data, and there are none here; "
            f"pass a forward_fn that leaves out what depends on values, register one for the model's class with "
            f"@dfpc_plugin.families.register_forward, or register a rule for the function that surrounds it with "
            f"@dfpc_plugin.rule."
        )


class HookError(DFPCError):
    """A forward hook needs what a pass without data does not have."""

    def __init__(self, module: str, hook: str, problem: str) -> None:
        """Name the `module` that has the hook, the function that the hook calls, and what went wrong in it."""
        owner = f"module '{module}'" if module else "the model itself"
        super().__init__(
            f"The forward hook {hook} of {owner} cannot run without data ({problem.rstrip('.')}); remove the hook with "
            f"handle.remove(), and register it again afterwards."
        )


class NonFiniteWeightError(DFPCError):
    """A parameter or a running statistic holds NaN or infinity."""

    def __init__(self, name: str, count: int) -> None:
        """Name the parameter or buffer (dotted path) and how many of its entries are not finite."""
        self.name = name
        super().__init__(
            f"'{name}' holds {count} value(s) that are not finite, so no score can be computed from it; "
            f"load a clean checkpoint or repair that layer first."
        )


class NonFiniteScoreError(DFPCError):
    """A score came out as NaN or infinite although every weight is finite."""

    def __init__(self, layer: str) -> None:
        """Name the feed-in layer."""
        super().__init__(
            f"The scores of '{layer}' are not finite although its weights are: a running variance below zero, or "
            f"weights too large for float32, in it or in the layers that read it; convert the model to float64 to see."
        )


class RuleError(DFPCError, RuntimeError):
    """An operator could not be applied to bounds: the model's shapes do not fit, or its rule cannot do this form."""

    def __init__(self, function: str, module: str, problem: str) -> None:
        """Name the operator, the module that called it, and what happened."""
        super().__init__(
            f"{function}, called by {module or 'the model itself'}, could not be applied without data: {problem}. "
            f"If the model runs with these example inputs, register a rule that can do this with "
            f"@dfpc_plugin.rule inside `with dfpc_plugin.rule_scope():`."
        )


class DuplicateRuleError(DFPCError):
    """Two rules were registered for one operator."""

    def __init__(self, function: str) -> None:
        """Name the operator that already has a rule."""
        super().__init__(
            f"{function} already has a data-flow rule; pass override=True to replace it for the process, "
            f"or register yours inside `with dfpc_plugin.rule_scope():`."
        )


class ExampleInputsError(DFPCError):
    """The example inputs are missing or are not what the model takes."""


class ForwardError(DFPCError, RuntimeError):
    """A model cannot be called with the inputs that were given."""

    def __init__(self, inputs: str, modules: Iterable[str], error: BaseException) -> None:
        """Describe the `inputs`, the `modules` that were running (the innermost first), and what was raised in there."""
        said = next(iter(str(error).strip().splitlines()), "").rstrip(".")
        problem = f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__
        place = next((f" in '{path}'" for path in modules if path), "")
        super().__init__(
            f"The model cannot be called with {inputs} ({problem}{place}); give inputs of the shape and type that it takes."
        )


class ModelChangedError(DFPCError):
    """A model no longer is what an earlier result was computed for."""


class ModelFormError(DFPCError, ValueError):
    """The model is in a form that cannot be pruned: in TorchScript, exported, spread over devices, not initialised."""


class UnknownModelError(DFPCError):
    """A model name that neither timm nor torchvision knows."""


class MissingDependencyError(DFPCError):
    """An optional package is needed and not installed."""

    def __init__(self, package: str, extra: str) -> None:
        """Name the missing `package` and the `extra` of this project that brings it."""
        super().__init__(
            f"This needs the package '{package}', which is not installed; run: pip install \"dfpc-plugin[{extra}]\", "
            f'or in a clone of the repository: pip install -e ".[{extra}]"'
        )


class CutError(DFPCError):
    """Channels cannot be removed; the model is as it was."""


class GroupError(DFPCError, ValueError):
    """Channels were asked for that are not there, or that must stay."""


class NothingToPruneError(DFPCError):
    """A model has no coupling that can be pruned, or all of them are ignored."""


class OptionNameError(DFPCError, TypeError):
    """A function was given an option that it does not have."""


class PrunerSettingError(DFPCError, ValueError):
    """A pruner was given a setting that it cannot follow."""


class RegistryError(DFPCError, ValueError):
    """Something cannot be registered by its name, or a package that registers cannot be imported."""


class RepairError(DFPCError):
    """A pruned model cannot be repaired in the way that was asked for; it is as it was."""
