"""What the scores and couplings of a model look like: tables, plots, JSON and CSV."""

from dfpc_plugin.report.check import ModelCheck, check_model
from dfpc_plugin.report.couplings import ModelCouplings, UnknownCouplingError, couple_model
from dfpc_plugin.report.export import couplings_to_csv, couplings_to_json, to_csv, to_json
from dfpc_plugin.report.notebook import record_view
from dfpc_plugin.report.plots import draw_saliency, write_plot
from dfpc_plugin.report.summary import CouplingSummary, ModelScore, ScoreRange, score_model, summarise
from dfpc_plugin.report.tables import coupling_table, print_check, print_coupling, print_couplings, print_score

__all__ = [
    "CouplingSummary",
    "ModelCheck",
    "ModelCouplings",
    "ModelScore",
    "ScoreRange",
    "UnknownCouplingError",
    "check_model",
    "couple_model",
    "coupling_table",
    "couplings_to_csv",
    "couplings_to_json",
    "draw_saliency",
    "print_check",
    "print_coupling",
    "print_couplings",
    "print_score",
    "record_view",
    "score_model",
    "summarise",
    "to_csv",
    "to_json",
    "write_plot",
]
