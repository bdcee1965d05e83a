"""Run a model once on data-flow tensors, one rule per operator."""

from dfpc_plugin.flow import rules  # noqa: F401
from dfpc_plugin.flow.engine import FlowRun, MissingOperator
from dfpc_plugin.flow.layer import LayerContext
from dfpc_plugin.flow.registry import Convention, Rule, registered_rules, rule, rule_scope
from dfpc_plugin.flow.run import ForwardFunction, missing_operators, run_flow

__all__ = [
    "Convention",
    "FlowRun",
    "ForwardFunction",
    "LayerContext",
    "MissingOperator",
    "Rule",
    "missing_operators",
    "registered_rules",
    "rule",
    "rule_scope",
    "run_flow",
]
