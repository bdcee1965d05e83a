"""The models that represent all of timm and torchvision: the smallest one or two of every model file.

    python examples/support/models.py                   # the list
    python examples/support/models.py --refresh true    # compute it again, which takes minutes

- timm: the smallest model of every file, with images of up to 256 pixels if there is one; for files with
  eight or more models also the smallest whose name begins with another word. Models named `test_` are left out.
- torchvision: the smallest model of every family, which are models of one file whose names differ only in size;
  without the quantised ones.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from jsonargparse import auto_cli

LIST = Path(__file__).with_name("models.json")
LIBRARIES = ("timm", "torchvision")
TORCHVISION = "torchvision/"
MANY, SMALL_IMAGE = 8, 256
SIZES = {"tiny", "small", "base", "large"}
FURTHER = ("vit_small_patch16_rope_224", "eva02_base_patch16_clip_224", "tf_efficientnet_cc_b0_4e")
"""Models with operators that no other has: rotary position embeddings, separate q, k and v, computed weights."""


@dataclass(frozen=True)
class Model:
    """The properties that models are chosen by; `image` is the default side of an image in pixels, 0 if unknown."""

    name: str
    file: str
    parameters: int
    image: int = 0


def names() -> list[str]:
    """The models of the cached list."""
    files = json.loads(LIST.read_text(encoding="utf-8"))["files"]
    return [name for listed in files.values() for name in listed.split()]


def choose_timm(models: list[Model]) -> list[Model]:
    """Choose from the models of one file, given in timm's order."""
    ordered = sorted(models, key=lambda model: (model.image > SMALL_IMAGE, model.parameters))
    word = _first_word(ordered[0])
    others = [model for model in ordered if _first_word(model) != word and model.image <= SMALL_IMAGE]
    further = [model for model in ordered if model.name in FURTHER]
    return list(dict.fromkeys(ordered[:1] + (others[:1] if len(models) >= MANY else []) + further))


def choose_torchvision(models: list[Model]) -> list[Model]:
    """Choose one model per family from the models of one file."""
    families: dict[tuple[str, ...], Model] = {}
    for model in sorted(models, key=lambda model: model.parameters):
        families.setdefault(_family(model.name.removeprefix(TORCHVISION)), model)
    return list(families.values())


def _first_word(model: Model) -> str:
    return _letters(model.name)


def _letters(text: str) -> str:
    """The start of `text`, up to the first digit or underscore."""
    return re.split("[^a-z]", text, maxsplit=1)[0]


def _family(name: str) -> tuple[str, ...]:
    """The words of a name that are not a size: ('swin', 'v2') of `swin_v2_t`."""
    words = [word if re.fullmatch(r"v\d", word) else _letters(word) for word in name.split("_")]
    return tuple(word for word in words if len(word) > 1 and word not in SIZES)


def all_models() -> Iterator[Model]:
    """Build every model of both libraries on the meta device."""
    from timm.models import get_pretrained_cfg, list_models, list_modules
    from torchvision.models import get_model_builder
    from torchvision.models import list_models as list_torchvision

    for file in sorted(list_modules()):
        for name in list_models(module=file, exclude_filters="test_*"):
            config = get_pretrained_cfg(name)
            yield Model(name, file, _parameters(name), config.input_size[-1] if config else 0)
    for short in list_torchvision():
        file = get_model_builder(short).__module__.removeprefix("torchvision.models.")
        if not file.startswith("quantization."):
            name = TORCHVISION + short
            yield Model(name, TORCHVISION + file, _parameters(name))


def _parameters(name: str) -> int:
    from dfpc_plugin.models import build_model

    return sum(parameter.numel() for parameter in build_model(name, meta=True).parameters())


def choose() -> dict[str, list[Model]]:
    """Choose from the installed libraries: models per file."""
    from rich.progress import track

    files: dict[str, list[Model]] = defaultdict(list)
    for model in track(all_models(), "sizes"):
        files[model.file].append(model)
    return {
        file: (choose_torchvision if file.startswith(TORCHVISION) else choose_timm)(models)
        for file, models in files.items()
    }


def main(refresh: bool = False) -> None:
    """Print the list.

    Args:
        refresh: First compute it again, and store it.
    """
    if refresh:
        content: dict[str, object] = {library: version(library) for library in LIBRARIES}
        content["files"] = {file: " ".join(model.name for model in models) for file, models in choose().items()}
        LIST.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(*names(), sep="\n")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
