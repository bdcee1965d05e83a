"""The inputs of a repair: collected from all supported types into batches, or generated from the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from dfpc_plugin.advice import setting
from dfpc_plugin.errors import RepairError
from dfpc_plugin.families.registry import ForwardFunction
from dfpc_plugin.inputs import ExampleInputs
from dfpc_plugin.repairing.settings import Images, RepairSettings
from dfpc_plugin.repairing.store import Store, fingerprint
from dfpc_plugin.repairing.synthesis import synthesise
from dfpc_plugin.tracing.tree import map_tensors, tensors

DEFAULT_COUNT = 256
_NUMBERS = 2**22
"""Largest number of values in one batch: 80 images of 3 x 131 x 131."""
_UNSEEN = 4
"""One in this many inputs is held out."""
_MATCHES = 0.05
"""Synthetic images count as matching up to this divergence in nats; photographs have 0.006, noise 0.4."""


@dataclass(frozen=True, eq=False)
class Batches:
    """Inputs in batches; the last quarter is held out, and nothing is fitted to it.

    Attributes:
        parts: Inputs of a model, each of bounded size.
    """

    parts: list[ExampleInputs]

    @property
    def one(self) -> ExampleInputs:
        """A single input, enough to survey a forward."""
        return _slice(self.parts[0], slice(0, 1))

    @property
    def counts(self) -> list[int]:
        """Number of inputs in each part."""
        return [len(tensors(part)[0]) for part in self.parts]

    @property
    def seen(self) -> list[float]:
        """The share of each part, from the front, that may be fitted to."""
        left = sum(self.counts) - max(1, sum(self.counts) // _UNSEEN)
        shares = []
        for count in self.counts:
            shares.append(min(count, left) / count)
            left -= min(count, left)
        return shares

    @property
    def unseen(self) -> Batches:
        """The held-out inputs."""
        return self._cut(lambda count, share: slice(round(count * share), None))

    @property
    def fitted(self) -> Batches:
        """The inputs that may be fitted to."""
        return self._cut(lambda count, share: slice(0, round(count * share)))

    def _cut(self, part_of: Any) -> Batches:
        """A slice of every part; empty ones are dropped."""
        found = []
        for part, count, share in zip(self.parts, self.counts, self.seen, strict=True):
            own = part_of(count, share)
            if len(range(count)[own]):
                found.append(_slice(part, own))
        return Batches(found)


def collected(
    images: Images, count: int, model: nn.Module, seed: int, example_inputs: ExampleInputs | None = None
) -> Batches:
    """Take `count` inputs, shuffled, in batches of bounded size, on the model's device and in its precision.

    A tensor or a mapping is one batch; anything else is iterated over. Of a tuple or list, the first entry is used, as
    data loaders return images and labels. An entry with one dimension less than `example_inputs` is a single image, as
    data sets return them. `count` entries of a data set are drawn at random, because many are sorted by class. Raises
    RepairError if there are fewer than two, or they are not tensors of numbers of one shape.
    """
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    given = _gathered(_drawn(images, count, seed), count, example_inputs)
    total = min(count, len(tensors(given)[0]))
    if total < 2:
        raise RepairError(f"There are {total} images; give two or more.")
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    whole = map_tensors(lambda t: t[:total][order.to(t.device)].to(parameter.device), given)
    whole = map_tensors(lambda t: t.to(parameter.dtype) if t.is_floating_point() else t, whole)
    if not all(bool(torch.isfinite(t).all()) for t in tensors(whole) if t.is_floating_point()):
        raise RepairError("Some images hold values that are not finite; leave these out.")
    each = sum(t[:1].numel() for t in tensors(whole))
    size = max(1, min(total, _NUMBERS // max(1, each)))
    starts = range(0, total, size)
    return Batches([_slice(whole, slice(start, start + size)) for start in starts])


def _gathered(images: Images, count: int, example_inputs: ExampleInputs | None) -> ExampleInputs:
    """All inputs as one batch; raises RepairError if they are not tensors, or differ in shape or type."""
    if isinstance(images, Tensor | Mapping):
        return _checked(images)
    try:
        iterator = iter(images)
    except TypeError:
        raise RepairError(
            f"images is a {type(images).__name__}; give a tensor, a dict, or batches to iterate over."
        ) from None
    found: list[ExampleInputs] = []
    missing = count
    for batch in iterator:
        inputs = batch[0] if isinstance(batch, tuple | list) and len(batch) else batch
        single = _is_single(inputs, example_inputs)
        found.append(_checked(map_tensors(lambda t: t[None], inputs) if single else inputs))
        missing -= len(tensors(found[-1])[0])
        if missing <= 0:
            break
    if not found:
        raise RepairError("There are 0 images; give two or more.")
    shapes = {tuple((t.dtype, t.shape[1:]) for t in tensors(batch)) for batch in found}
    if len(shapes) > 1:
        raise RepairError("Batches of images differ in shape or type; give images of one size.")
    return _joined(found)


def _drawn(images: Images, count: int, seed: int) -> Images:
    """Random entries of a data set; everything else is returned as it is."""
    if not isinstance(images, Dataset) or isinstance(images, IterableDataset):
        return images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]  # type: ignore[arg-type]
    return (images[index] for index in order.tolist())


def _is_single(inputs: Any, example_inputs: ExampleInputs | None) -> bool:
    """Whether inputs are one example without a batch dimension."""
    if example_inputs is None or not isinstance(inputs, Tensor | Mapping):
        return False
    own, examples = tensors(inputs), tensors(example_inputs)
    return bool(own and examples) and own[0].dim() == examples[0].dim() - 1


def _checked(batch: Any) -> ExampleInputs:
    if isinstance(batch, Mapping):
        batch = dict(batch)
    own = tensors(batch) if isinstance(batch, Tensor | dict) else []
    if not own or any(not t.dim() or len(t) != len(own[0]) for t in own):
        raise RepairError(
            f"A batch of images is a {type(batch).__name__}; batches are tensors, alone or before labels."
        )
    if any(t.layout != torch.strided or t.is_meta for t in own):
        raise RepairError("Images are sparse, or on the meta device without values; give ordinary tensors.")
    if isinstance(batch, Tensor) and not batch.is_floating_point():
        raise RepairError(
            f"Images are {batch.dtype}; give numbers scaled as the model was trained on, such as float32."
        )
    return batch


def _joined(batches: Sequence[ExampleInputs]) -> ExampleInputs:
    parts: Iterable[list[Tensor]] = zip(*(tensors(batch) for batch in batches), strict=True)  # type: ignore[assignment]
    whole = iter([torch.cat(list(own)) for own in parts])
    return map_tensors(lambda _: next(whole), batches[0])


def _slice(inputs: ExampleInputs, own: slice) -> ExampleInputs:
    return map_tensors(lambda tensor: tensor[own], inputs)


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

        Raises RepairError if no images can be made from the model, or those given cannot be used.
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
            + (
                ""
                if self.matches
                else f" That is far: images of your own, with {setting('method', 'calibrate')}, will do better."
            )
        )
        return Batches(parts)
