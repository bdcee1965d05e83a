"""`dfpc score`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from dfpc_plugin.cli.consoles import Consoles
from dfpc_plugin.cli.model_options import SubjectOptions
from dfpc_plugin.cli.output import STDOUT, OptionError, plotted, require_targets, say_written, send
from dfpc_plugin.plain_data import Count
from dfpc_plugin.report.export import to_csv, to_json
from dfpc_plugin.report.plots import write_plot
from dfpc_plugin.report.summary import score_model
from dfpc_plugin.report.tables import print_score
from dfpc_plugin.saliency import Ranking
from dfpc_plugin.workflow.opening import is_artifact, is_checkpoint


@dataclass(frozen=True)
class ScoreConfig(SubjectOptions):
    """Options of `dfpc score`.

    Attributes:
        ranking: What channels are scored by: output (share of the variance at the model's outputs, as dfpc prune ranks),
            expected (variance at the layers that read them), relative (shares of bounds) or published (the paper's bounds).
        json: Write everything as JSON to this file, or to the standard output (-), which then gets nothing else.
        csv: Write one row per layer and channel as CSV to this file, or to the standard output (-).
        plot: Draw the saliency of every coupling into this file (.png, .svg or .pdf).
        top: Show only the N couplings with the lowest scores, where a global ranking begins to cut.
        quiet: Print no table.
    """

    ranking: Ranking = "output"
    json: str | None = field(default=None, metadata={"metavar": "FILE"})
    csv: str | None = field(default=None, metadata={"metavar": "FILE"})
    plot: Path | None = field(default=None, metadata={"metavar": "FILE"})
    top: Count | None = None
    quiet: bool = False

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.pretrained and self.weights is not None:
            raise OptionError("pretrained and weights both say where weights come from; give one of them.")


def run(config: ScoreConfig, consoles: Consoles) -> None:
    """Score every channel of a model without data, and show the couplings that its layers form."""
    require_targets(config.json, config.csv, plot=config.plot)
    with consoles.err.status(f"Scoring {config.model}"):
        opened = config.opened(None if config.quiet else consoles.err)
        named = (
            config.pretrained or config.weights is not None or is_artifact(config.model) or is_checkpoint(config.model)
        )
        score = score_model(config.model, opened.model, opened.inputs, ranking=config.ranking, trained=named)
        title = f"{score.model}, {score.ranking} ranking"
        written = plotted(config.plot, lambda path: write_plot(score.saliency, path, title))
        written += send(config.json, lambda: to_json(score)) + send(config.csv, lambda: to_csv(score.saliency))
    if not config.quiet and STDOUT not in (config.json, config.csv):
        print_score(score, consoles.out, config.top)
        say_written(consoles.out, written)
