"""Ctrl-C at any line of our own code, also of that which puts things back, leaves everything as it was."""

import gc
import random
import signal
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import dfpc_plugin as dfpc
from dfpc_plugin import generators
from dfpc_plugin.artifact import load
from dfpc_plugin.eager import running_eagerly
from dfpc_plugin.finetuning.course import seed_step
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.interrupts import collector_paused, entered, interrupts_held, undone
from dfpc_plugin.latency.predict import _threads
from dfpc_plugin.preserve import evaluating
from dfpc_plugin.repairing.lockstep import SteppedForward
from dfpc_plugin.tracing.script import scripted_functions_redirected

PACKAGE = str(Path(dfpc.__file__).parent)
LOCKING = ("exclusive", "_undisturbed")
"""Functions of which every line takes or releases a lock, where Python looks for no signals: a trace would raise there."""
pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="only the main thread gets signals"
)


def interrupted_at(position, function):
    """Call `function`, with Ctrl-C at one of the lines of the package that it runs; whether it runs so many."""
    left = [position]

    def trace(frame, event, argument):
        if not frame.f_code.co_filename.startswith(PACKAGE) or frame.f_code.co_name in LOCKING:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    return left[0] <= 0


def network():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Sequential(nn.ReLU(), nn.Dropout()))
    model.register_forward_hook(lambda *args: None)
    return model.train()


MODEL = network()


def evaluate():
    with evaluating(MODEL), torch.no_grad():
        MODEL(torch.ones(3, 2))
        MODEL[1].running_mean.add_(1)


def generate():
    with generators_kept():
        seed_step(1)


def exchange():
    with running_eagerly(), scripted_functions_redirected():
        pass


def pause():
    with collector_paused():
        pass


def build():
    load.built(lambda: (torch.set_default_dtype(torch.float64), network())[1])


def use_threads():
    with _threads(2):
        pass


def state():
    return (
        [module.training for module in MODEL.modules()],
        [tensor.tolist() for tensor in MODEL.state_dict().values()],
        random.getstate(), torch.get_rng_state().tolist(), torch.get_default_dtype(), torch.get_num_threads(),
        torch._C.ScriptFunction.__call__, torch.inference_mode.__enter__, gc.isenabled(),
        signal.getsignal(signal.SIGINT), threading.active_count(),
    )  # fmt: skip


@pytest.mark.parametrize("function", [evaluate, generate, exchange, pause, build, use_threads])
def test_everything_is_put_back(function):
    function()
    before, position = state(), 1
    while interrupted_at(position, function):
        assert state() == before, f"Ctrl-C at line {position} of those that run"
        assert not generators._inside, f"or else no thread would ever be the last, after line {position}"
        position += 1
    assert position > 5 and state() == before


def test_ctrl_c_waits_and_is_not_lost():
    told = []
    with pytest.raises(KeyboardInterrupt):
        with interrupts_held():
            signal.raise_signal(signal.SIGINT)
            told.append("finished")
    assert told == ["finished"]


class Interrupted(TorchFunctionMode):
    """A mode in whose own code Ctrl-C comes."""

    def __enter__(self):
        found = super().__enter__()
        signal.raise_signal(signal.SIGINT)
        return found

    def __exit__(self, *error):
        signal.raise_signal(signal.SIGINT)
        return super().__exit__(*error)


def test_modes_of_pytorch_are_entered_and_left_as_a_whole():
    with pytest.raises(KeyboardInterrupt), entered(Interrupted()):
        pytest.fail("the interrupt comes before the block")
    assert torch._C._len_torch_function_stack() == 0


def test_a_forward_in_a_thread_has_begun_when_ctrl_c_is_raised(monkeypatch):
    """In the middle of a start, it can leave a lock of the thread taken, which then waits for ever."""
    begun, start = [], threading.Thread.start

    def interrupted(thread):
        signal.raise_signal(signal.SIGINT)
        start(thread)
        begun.append(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    forward = SteppedForward(nn.Linear(1, 1), torch.ones(1, 1), None)
    with pytest.raises(KeyboardInterrupt):
        forward.advance()
    forward.close()
    assert begun and not begun[0].is_alive()


def test_what_raises_while_it_is_put_back_is_told():
    def restore():
        raise OSError("no")

    with pytest.raises(OSError, match="no"), undone(restore):
        pass


def test_other_threads_hold_nothing():
    handlers = []

    def run():
        with interrupts_held():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


def test_a_model_that_is_pruned_in_place_is_the_old_one_or_the_new_one(monkeypatch):
    module = sys.modules["dfpc_plugin.pruning.prune"]  # the package has the function by that name
    model, images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval(), torch.rand(1, 3, 8, 8)
    cut = module.cut

    def cut_and_interrupt(*args):
        cut(*args)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(module, "cut", cut_and_interrupt)
    expected = dfpc.prune(model, images, "macs=0.6", repair="merge").model
    with pytest.raises(KeyboardInterrupt):
        dfpc.prune(model, images, "macs=0.6", repair="merge", inplace=True)
    assert all(torch.equal(own, other) for own, other in zip(model.parameters(), expected.parameters(), strict=True))
