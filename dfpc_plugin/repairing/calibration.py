"""The inputs of a repair: generated from the model, or collected from the user, once."""

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

_MATCHES = 0.05
"""Synthetic images count as matching up to this divergence in nats; photographs have 0.006, noise 0.4."""


class Calibration:
    """Inputs for `synthetic` and `calibrate`, kept for later repairs.

    Attributes:
        settings: The settings of the repair.
        matches: Whether the inputs have the statistics of the training data, as far as is known.
        note: What the user should know about the inputs.
    """

    def __init__(
        self, settings: RepairSettings, forward_fn: ForwardFunction | None = None, directory: Path | str | None = None
    ) -> None:
        """Prepare for a method that uses images. Generated ones are saved in `directory`, or loaded from there."""
        self.settings = settings
        self.matches, self.note = True, ""
        self._forward_fn, self._directory = forward_fn, directory
        self._batches: Batches | None = None

    def batches(
        self, model: nn.Module, example_inputs: ExampleInputs, progress: Callable[[float], None] | None = None
    ) -> Batches:
        """Return the inputs, made for the unpruned `model` by the first call; later calls return the same ones.

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
        """Generate images, or load those saved earlier."""
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
