"""Where a run keeps what it has done so far, so that it can go on after an interruption."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from dfpc_plugin.files import OutputError, write_text
from dfpc_plugin.finetuning.identity import differences
from dfpc_plugin.workflow.processes import is_main_process
from dfpc_plugin.workflow.recipe import RecipeError

__all__ = ["WorkPlace"]

_RECIPE, _CUT, _CHECKPOINTS, _REPAIR = "recipe.yaml", "cut", "checkpoints", "repair"


class WorkPlace:
    """A directory beside the output, which goes away when the run is done.

    Attributes:
        directory: Its path, that of the output with `.run` behind.
    """

    def __init__(self, output: Path, recipe: str, *, resume: bool) -> None:
        """Take up the run that is there, or begin one.

        Args:
            output: Where the run will end.
            recipe: The resolved recipe.
            resume: Whether to go on with what is there.

        Raises:
            RecipeError: Another run is there, or one that is not to be resumed.
            OutputError: The directory cannot be made.
        """
        self.directory = output.with_name(output.name + ".run")
        self._recipe, self._resume = recipe, resume
        known = self.directory / _RECIPE
        if is_main_process() and self.directory.exists():  # the others may come when the main one has begun
            self._require_own(known)

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Make the directory, in the main process; if the run fails before it has done anything, throw it away again.

        Raises:
            OutputError: It cannot be made.
        """
        if not is_main_process():
            yield
            return
        try:
            self.directory.mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot make '{self.directory}': {error.strerror or error}.") from error
        try:
            write_text(self.directory / _RECIPE, self._recipe)
            yield
        except BaseException:
            if not self._holds_anything():
                self.remove()
            raise

    def _holds_anything(self) -> bool:
        """Whether something is there that a run can go on with."""
        return any(path.is_file() for part in (self.cut, self.checkpoints, self.repair) for path in part.rglob("*"))

    @property
    def cut(self) -> Path:
        """The artifact of the pruned model, before it is fine-tuned."""
        return self.directory / _CUT

    @property
    def checkpoints(self) -> Path:
        """Checkpoints of fine-tuning."""
        return self.directory / _CHECKPOINTS

    @property
    def repair(self) -> Path:
        """Layers that are repaired."""
        return self.directory / _REPAIR

    def remove(self) -> None:
        """Throw away what is no longer needed."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _require_own(self, known: Path) -> None:
        if not self._resume:
            raise RecipeError(
                f"'{self.directory}' holds the beginnings of a run that was interrupted; go on with it by --resume, or remove it."
            )
        try:
            found = yaml.safe_load(known.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RecipeError(f"'{self.directory}' is no run of this library ({error}); remove it.") from error
        other = [name for name, _, _ in differences(found if isinstance(found, dict) else {}, yaml.safe_load(self._recipe))]
        if other:
            raise RecipeError(
                f"'{self.directory}' holds a run of another recipe: {', '.join(other)} {'is' if len(other) == 1 else 'are'} not the "
                f"same. Go on with that one (its '{_RECIPE}'), or remove the directory."
            )
