"""What holds for all tests."""

import gc
import os
import signal

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: workers share the processors

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with Ctrl-C ignored


def pytest_collection_finish():
    """Spare the garbage collector what is there for good, libraries above all: full collections take a third of the time."""
    gc.collect()
    gc.freeze()
