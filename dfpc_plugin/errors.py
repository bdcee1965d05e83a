"""The errors of this package. Every message says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


def system_reason(error: BaseException) -> str:
    """Return why a file cannot be used: the operating system's message without the path, or the error's."""
    return str(getattr(error, "strerror", None) or error)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message without its full stop, at most 300 characters; '' if it has none."""
    return str(error).strip().partition("\n")[0].strip().rstrip(".")[:300]


@dataclass(frozen=True)
class MissingOperator:
    """An operator without a rule.

    Attributes:
        function: Its name, as users write it.
        modules: Dotted paths of the modules that called it ('' is the model itself), in order of first call.
    """

    function: str
    modules: tuple[str, ...]


class DFPCError(Exception):
    """Base class of all errors of this package."""


class UnsupportedOperatorError(DFPCError):
    """The model calls operators that have no data-flow rule.

    Attributes:
        missing: Every operator without a rule, with the modules that called it.
    """

    def __init__(
        self, missing: Iterable[MissingOperator], stopped_by: str | None = None, *, needs_values: bool = False
    ) -> None:
        """List `missing`; `stopped_by` says why the pass ended early, `needs_values` that it needed values of the data."""
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

    def __init__(self, function: str, module: str | None) -> None:
        """Name the `function` that asked for values and the `module` that called it."""
        super().__init__(
            f"{function} in module '{module or 'the model itself'}' needs the values of the data, and there are none here; "
            f"pass a forward_fn that leaves out what depends on values, register one for the model's class with "
            f"@dfpc_plugin.families.register_forward, or register a rule for the function that surrounds it with "
            f"@dfpc_plugin.rule."
        )


class HookError(DFPCError):
    """A forward hook needs what a pass without data does not have."""

    def __init__(self, module: str, hook: str, problem: str) -> None:
        """Name the `module` of the hook, the function that the `hook` calls, and the `problem`."""
        owner = f"module '{module}'" if module else "the model itself"
        super().__init__(
            f"The forward hook {hook} of {owner} cannot run without data ({problem.rstrip('.')}); remove the hook with "
            f"handle.remove(), and register it again afterwards."
        )


class NonFiniteWeightError(DFPCError):
    """A parameter or a running statistic holds NaN or infinity."""

    def __init__(self, name: str, count: int) -> None:
        """Name the parameter or buffer (dotted path) and the number of its values that are not finite."""
        self.name = name
        super().__init__(
            f"'{name}' holds {count} value(s) that are not finite, so no score can be computed from it; "
            f"load a clean checkpoint or repair that layer first."
        )


class NonFiniteScoreError(DFPCError):
    """A score is NaN or infinite although all weights are finite."""

    def __init__(self, layer: str) -> None:
        """Name the feed-in layer."""
        super().__init__(
            f"The scores of '{layer}' are not finite although its weights are: a running variance below zero, or "
            f"weights too large for float32, in it or in the layers that read it; convert the model to float64 to see."
        )


class RuleError(DFPCError, RuntimeError):
    """An operator could not be applied: the model's shapes do not fit, or its rule does not support this form."""

    def __init__(self, function: str, module: str | None, problem: str | Exception) -> None:
        """Name the operator, the module that called it, and the problem."""
        if isinstance(problem, Exception):
            problem = f"{type(problem).__name__}: {problem}".rstrip(".")
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
    """The example inputs are missing, or the model cannot be called with them."""


class ForwardError(DFPCError, RuntimeError):
    """A model cannot be called with the given inputs."""

    def __init__(self, inputs: str, modules: Iterable[str], error: BaseException) -> None:
        """Describe the `inputs`, the running `modules` (innermost first), and the `error`."""
        problem = f"{type(error).__name__}: {first_line(error)}".removesuffix(": ")
        place = next((f" in '{path}'" for path in modules if path), "")
        stale = place and "is invalid for input of size" in problem
        hint = " If the model was pruned, update the widths in attributes there, such as head_dim." if stale else ""
        super().__init__(
            f"The model cannot be called with {inputs} ({problem}{place}); give inputs of the shape and type that it takes.{hint}"
        )


class ModelFormError(DFPCError, ValueError):
    """The model cannot be pruned in its form: TorchScript, exported, sharded, or not initialised."""


class UnknownModelError(DFPCError):
    """Neither timm nor torchvision knows a model of this name."""


class MissingDependencyError(DFPCError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, what: str = "This") -> None:
        """Name the missing `package`, the `extra` of this project that installs it, and `what` needs it."""
        super().__init__(
            f"{what} needs the package '{package}', which is not installed; run: pip install \"dfpc-plugin[{extra}]\", "
            f'or in a clone of the repository: pip install -e ".[{extra}]"'
        )


class CutError(DFPCError):
    """Channels cannot be removed; the model is not changed."""


class GroupError(DFPCError, ValueError):
    """The requested channels do not exist or are protected."""


class NothingToPruneError(DFPCError):
    """A model has no coupling that can be pruned, or all of them are ignored."""


class ArgumentError(DFPCError, TypeError):
    """A function lacks an argument, or was given one of a wrong type."""


class OptionNameError(DFPCError, TypeError):
    """A function was given an option that it does not have."""


class PrunerSettingError(DFPCError, ValueError):
    """A setting of a pruner is invalid."""


class RegistryError(DFPCError, ValueError):
    """A name cannot be registered, or an extension cannot be imported."""


class RepairError(DFPCError):
    """A pruned model cannot be repaired by this method; it is not changed."""
