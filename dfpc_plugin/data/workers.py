"""Check the number of processes that read images."""

from __future__ import annotations

import os

from dfpc_plugin.data.errors import DataError


def checked_workers(workers: int) -> int:
    """Return `workers`; raise if so many processes could bring the machine down.

    Raises:
        DataError: It is negative, or far more than there are processors.
    """
    most = max(32, 4 * (os.cpu_count() or 1))
    if not 0 <= workers <= most:
        raise DataError(f"workers={workers} is no number of processes for this machine; give 0 to {most}.")
    return workers
