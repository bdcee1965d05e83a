"""The best state of a model under repair, so that no repair makes its outputs worse."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn

from dfpc_plugin.repairing.inputs import Batches
from dfpc_plugin.repairing.job import RepairJob


class Best:
    """The state of a job's model with the smallest output error, on inputs that nothing is fitted to.

    Attributes:
        error: The error in that state. None if outputs cannot be compared; the latest state then counts as the best.
    """

    def __init__(self, job: RepairJob, inputs: Batches, *, noise: bool = False) -> None:
        """Begin with the model as it is; `inputs` are data, or `noise`."""
        self._job, self._inputs, self._noise = job, inputs, noise
        self.error = self._first_error = job.error(inputs, noise=noise)
        self._state = copy.deepcopy(job.model)

    @property
    def improvement(self) -> str:
        """A sentence on how the error has changed since the beginning; empty if it is unknown or has not improved."""
        if self._first_error is None or self.error is None or not self.error < self._first_error:
            return ""
        return (
            f"On {'noise' if self._noise else 'inputs'} that it had not seen, the repair takes the error of the outputs from "
            f"{self._first_error:.2g} to {self.error:.2g} of their variance. That is no accuracy: measure it if you have labelled images."
        )

    def keep(self, name: str) -> bool:
        """Keep the repaired model and return True, or restore the best state and return False if its outputs are worse.

        `name` is that of the repair, for the note that the user then gets.
        """
        job, error = self._job, self._job.error(self._inputs, noise=self._noise)
        if error is not None and self.error is not None and not (error <= self.error or math.isnan(self.error)):
            copy_state(self._state, job.model)
            job.notes.append(
                f"{name} was taken back: on inputs that it had not seen, the output's error is {error:.2%} with it and "
                f"{self.error:.2%} without."
            )
            return False
        self.error, self._state = error, copy.deepcopy(job.model)
        return True


def copy_state(source: nn.Module, target: nn.Module) -> None:
    """Copy the parameters and buffers of a model into another of the same shapes."""
    with torch.no_grad():
        for mine, new in zip(target.parameters(), source.parameters(), strict=True):
            mine.data.copy_(new)
        for own, value in zip(target.buffers(), source.buffers(), strict=True):
            if not torch.equal(own, value):
                own.copy_(value)
