"""Sum up an exporter's error in a sentence: the reason, the operator and the module it came from."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import fx, nn

from dfpc_plugin.advice import setting
from dfpc_plugin.errors import DFPCError

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_OVERLOAD = re.compile(r"<OpOverload\(op='([^']+)', overload='[^']+'\)>")
_SPACE = re.compile(r"\s+")
_LONGEST = 300
_OF_SHAPES = re.compile(r"batch|constraint|speciali|dimension|shape|size", re.IGNORECASE)


class ExportError(DFPCError):
    """A model cannot be exported, or the exported file does not compute the same; no file is written."""


def reason_of(error: BaseException, model: nn.Module) -> str:
    """Return the first cause of an exporter's `error` in a sentence, with the module where it was raised."""
    first = list(_chain(error))[-1]  # exporters wrap it in longer ones with advice on reporting
    text = _OVERLOAD.sub(r"\1", _ANSI.sub("", str(first)))
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = _SPACE.sub(" ", lines[0]) if lines else type(first).__name__
    if len(said) > _LONGEST:
        said = f"{said[: _LONGEST - 1]}…"
    module = _module_of(error, model)
    return said.rstrip(".!") + (f" (in module '{module}')" if module else "")


def advice_on_batch(reason: str, dynamic_batch: bool) -> str:
    """Return advice if the dynamic batch may have caused the failure, else an empty string."""
    if dynamic_batch and _OF_SHAPES.search(reason):
        return f" Pass {setting('dynamic_batch', False)} if one size of batch is enough."
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes; the first cause comes last."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _module_of(error: BaseException, model: nn.Module) -> str | None:
    """Path of the module that ran, or whose operator was being translated, when the first cause was raised."""
    paths = {id(module): path for path, module in model.named_modules()}
    for cause in reversed(list(_chain(error))):
        found, traceback = None, cause.__traceback__
        while traceback is not None:
            values = traceback.tb_frame.f_locals
            node, owner = values.get("node"), values.get("self")
            if isinstance(node, fx.Node) and node.meta.get("nn_module_stack"):
                path = list(node.meta["nn_module_stack"].values())[-1][0]
                known = (path, path.partition(".")[2])  # the model may be a part of what was exported
                found = next((name for name in known if name in paths.values()), found)
            elif isinstance(owner, nn.Module):
                found = paths.get(id(owner)) or found
            traceback = traceback.tb_next
        if found:
            return found
    return None
