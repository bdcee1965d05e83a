"""Where a run keeps what it has done so far, so that it can go on after an interruption."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import yaml

from dfpc_plugin.errors import system_reason
from dfpc_plugin.files import OutputError, clear_leftovers, hidden_name, locked, write_text
from dfpc_plugin.finetuning.run import differences
from dfpc_plugin.workflow.sections import RecipeError

_RECIPE, _LOCK, _OWNER = "recipe.yaml", "lock", "process.txt"


class RunDirectory:
    """A directory beside the output, which is deleted when the run is done.

    Attributes:
        directory: Its path, that of the output with `.run` behind.
        cut: The artifact of the pruned model, before it is fine-tuned.
        checkpoints: Checkpoints of fine-tuning.
        repair: Layers that are repaired.
    """

    def __init__(self, output: Path, recipe: str, *, resume: bool) -> None:
        """Take up the run that is there, or begin one, which will end at `output`; `recipe` is the resolved one.

        Raises:
            RecipeError: Another run is there or under way, or one that is not to be resumed.
            OutputError: The directory cannot be made.
        """
        self.directory = output.with_name(output.name + ".run")
        self.cut, self.checkpoints, self.repair = (self.directory / part for part in ("cut", "checkpoints", "repair"))
        self._recipe, self._resume = recipe, resume
        known = self.directory / _RECIPE
        try:
            there = self.directory.exists()
        except OSError as error:  # the name is too long
            raise OutputError(f"Cannot make '{self.directory}': {system_reason(error)}.") from error
        if is_main_process() and there:  # the others may come when the main one has begun
            if (self.directory / _LOCK).exists():
                with self._locked():
                    pass
            self._require_own(known)

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Make the directory, in the main process; if the run fails before it has done anything, throw it away again."""
        if not is_main_process():
            yield
            return
        self._make()
        with self._locked():
            try:
                write_text(self.directory / _OWNER, f"process {os.getpid()} on {platform.node()}")
                write_text(self.directory / _RECIPE, self._recipe)
                yield
            except BaseException as error:
                if not self._holds_anything():
                    self.remove()
                elif type(error) is KeyboardInterrupt:
                    raise KeyboardInterrupt(
                        f"Interrupted. What is done is kept in '{self.directory}'; go on with it by the same command and --resume."
                    ) from None
                raise

    def _make(self) -> None:
        """Make the directory with its recipe in it, in one step, so that a run which is killed can be told from anything else."""
        if self.directory.exists():
            return
        clear_leftovers(self.directory)
        new = self.directory.with_name(hidden_name(self.directory.name))
        try:
            new.mkdir()
            write_text(new / _RECIPE, self._recipe)
            new.rename(self.directory)  # which fails where another process has been faster
        except OSError as error:
            raise OutputError(f"Cannot make '{self.directory}': {system_reason(error)}.") from error
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _locked(self) -> AbstractContextManager[None]:
        """Lock the directory for this process; a RecipeError if another one is at work."""
        owner = self.directory / _OWNER
        who = owner.read_text(encoding="utf-8")[:200] if owner.is_file() else "another process"
        refusal = f"'{self.directory}' is in use: {who} is at work on this output; wait for it, or name another one."
        return locked(self.directory / _LOCK, RecipeError(refusal))

    def _holds_anything(self) -> bool:
        """Whether a run could be resumed from what is there."""
        return any(path.is_file() for part in (self.cut, self.checkpoints, self.repair) for path in part.rglob("*"))

    def remove(self) -> None:
        """Delete the directory; it is renamed first, so that a half-deleted one is not resumed."""
        doomed = self.directory.with_name(hidden_name(self.directory.name))
        with contextlib.suppress(OSError):
            self.directory.rename(doomed)
        for directory in (doomed, self.directory):
            shutil.rmtree(directory, ignore_errors=True)

    def _require_own(self, known: Path) -> None:
        if not self._resume:
            raise RecipeError(
                f"'{self.directory}' holds the beginnings of a run that was interrupted; go on with it by --resume, or remove it."
            )
        try:
            found = yaml.safe_load(known.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RecipeError(f"'{self.directory}' is no run of this library ({error}); remove it.") from error
        found = found if isinstance(found, dict) else {}
        other = [name for name, _, _ in differences(found, yaml.safe_load(self._recipe))]
        if other:
            raise RecipeError(
                f"'{self.directory}' holds a run of another recipe: {', '.join(other)} {'is' if len(other) == 1 else 'are'} not the "
                f"same. Go on with that one (its '{_RECIPE}'), or remove the directory."
            )


def is_main_process() -> bool:
    """Whether this process is the only one, or the first, which prints and writes for all."""
    return os.environ.get("RANK", "0") == "0"
