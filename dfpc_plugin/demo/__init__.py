"""`dfpc demo`: a small trained network, pruned without data by several criteria, at equal cost."""

from dfpc_plugin.demo.demo_run import DemoConfig, DemoConfigError, run_demo

__all__ = ["DemoConfig", "DemoConfigError", "run_demo"]
