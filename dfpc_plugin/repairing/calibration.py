"""The inputs that a repair runs on: made from the model once, or taken from the user once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.repairing.inputs import DEFAULT_COUNT, Batches, collected
from dfpc_plugin.repairing.settings import RepairSettings
from dfpc_plugin.repairing.store import Store, fingerprint
from dfpc_plugin.repairing.synthesis import synthesise

__all__ = ["Calibration"]

_MATCHES = 0.05
"""Nats of divergence up to which synthetic images are taken to match; photographs are at 0.006, noise is at 0.4."""


class Calibration:
    """Inputs for `synthetic` and `calibrate`, kept for later repairs.

    Attributes:
        settings: What was asked for.
        matches: The inputs have the statistics of the model's data, as far as is known.
        note: What the user should know of them.
    """

    def __init__(
        self, settings: RepairSettings, forward_fn: ForwardFunction | None = None, directory: Path | str | None = None
    ) -> None:
        """Make and take nothing yet.

        Args:
            settings: Of a method that looks at images.
            forward_fn: How models are called, if not plainly.
            directory: Where images that were made are kept, and taken from if they are there.
        """
        self.settings = settings
        self.matches, self.note = True, ""
        self._forward_fn, self._directory = forward_fn, directory
        self._batches: Batches | None = None

    def batches(
        self, model: nn.Module, example_inputs: ExampleInputs, progress: Callable[[float], None] | None = None
    ) -> Batches:
        """Return inputs for `model`, an unpruned one; those of the first time, whatever model is asked about later.

        Raises:
            RepairError: No images can be made from the model, or those given cannot be used.
        """
        if self._batches is None:
            if self.settings.how.images == "given":
                own = self.settings
                self._batches = collected(own.images, own.count or DEFAULT_COUNT, model, own.seed, example_inputs)
            else:
                self._batches = self._made(model, example_inputs, progress)
        return self._batches

    def _made(
        self, model: nn.Module, example_inputs: ExampleInputs, progress: Callable[[float], None] | None
    ) -> Batches:
        """Make images, or take those made before."""
        own = self.settings
        said = {"count": own.count, "steps": own.steps, "seed": own.seed}
        mark = fingerprint([model], said, example_inputs, shapes_only=True) if self._directory is not None else ""
        store = Store(None if self._directory is None else Path(self._directory) / "images", mark)
        if store.has("images"):
            found, noted = store.load_tensors("images")
            like = next(iter(model.parameters()))
            parts: list[ExampleInputs] = [found[name].to(like.device) for name in sorted(found)]
            before, divergence = noted["before"], noted["divergence"]
        else:
            made = synthesise(
                model,
                example_inputs,
                count=own.count,
                steps=own.steps,
                seed=own.seed,
                forward_fn=self._forward_fn,
                progress=progress,
            )
            parts, before, divergence = list(made.batches), made.before, made.divergence
            content = {f"batch-{number:05d}": batch for number, batch in enumerate(made.batches)}
            store.save_tensors("images", content, {"divergence": divergence, "before": before})
        self.matches = divergence <= _MATCHES
        self.note = (
            f"Images are {divergence:.3f} nats from the statistics of the batch norms, per channel; the noise they began as "
            f"was {before:.3f}, and a hundred photographs are about 0.006."
            + ("" if self.matches else " That is far: images of your own, with method='calibrate', will do better.")
        )
        return Batches(parts)
