"""`dfpc demo`: a small trained network, pruned without data by several criteria, at equal cost."""

from dfpc_plugin.demo.config import DemoConfig, DemoConfigError
from dfpc_plugin.demo.demo_run import run_demo
from dfpc_plugin.demo.result import DemoResult

__all__ = ["DemoConfig", "DemoConfigError", "DemoResult", "run_demo"]
