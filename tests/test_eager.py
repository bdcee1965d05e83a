"""What torch wraps around code of a model is out of the way during a pass, and back afterwards."""

import threading

import pytest
import torch
import torch.utils.checkpoint as checkpointing
from torch import nn

from dfpc_plugin import bgsc, find_couplings, prune
from dfpc_plugin.eager import running_eagerly

ORIGINALS = (checkpointing.CheckpointFunction, checkpointing._checkpoint_hook, torch.inference_mode.__enter__)
X = torch.ones(1, 3, 8, 8)


class Net(nn.Module):
    """Calls its blocks by `how`."""

    def __init__(self, how=lambda block, x: block(x)):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.Sequential(nn.Conv2d(8, 6, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(6, 4, 1)))
        self.how = how

    def forward(self, x):
        return self.how(self.blocks, self.stem(x))


def reentrant(block, x):
    return checkpointing.checkpoint(block, x, use_reentrant=True)


def not_reentrant(block, x):
    return checkpointing.checkpoint(block, x, use_reentrant=False)


def sequential(blocks, x):
    return checkpointing.checkpoint_sequential(blocks, 2, x, use_reentrant=False)


def inferred(block, x):
    with torch.inference_mode():
        return block(x)


def inferred_and_weighed(block, x):
    with torch.inference_mode():
        scale = block[0].weight.abs().mean() * x.new_ones(())
        return block(x * scale)


@pytest.mark.parametrize("how", [reentrant, not_reentrant, sequential, inferred, torch.inference_mode()(inferred)])
@pytest.mark.parametrize("training", [False, True])
def test_scores_and_cuts_are_those_of_the_plain_model(how, training):
    plain, model = Net(), Net(how).train(training)
    scores = bgsc(model, X)
    assert scores.keys() == bgsc(plain, X).keys() and len(scores) > 1
    assert all(torch.equal(scores[name], own) for name, own in bgsc(plain, X).items())
    assert [str(c) for c in find_couplings(model, X)] == [str(c) for c in find_couplings(plain, X)]
    assert prune(model, X, "macs=0.6").removed == prune(plain, X, "macs=0.6").removed


def test_weights_made_in_inference_mode_are_scored():
    scores = bgsc(Net(inferred_and_weighed), X)
    assert all(own.sum() > 0 for own in scores.values())


def test_images_are_made_through_checkpoints():
    def normed(how):
        model = Net(how)
        model.blocks[1] = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1))
        return model

    found = [prune(normed(how), X, "ratio=0.3", repair="synthetic") for how in (not_reentrant, lambda b, x: b(x))]
    one, other = (result.model.state_dict() for result in found)
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_all_is_back_afterwards_also_after_an_error():
    with pytest.raises(OSError), running_eagerly():
        assert checkpointing.CheckpointFunction is not ORIGINALS[0]
        raise OSError
    now = (checkpointing.CheckpointFunction, checkpointing._checkpoint_hook, torch.inference_mode.__enter__)
    assert now == ORIGINALS
    with torch.inference_mode():
        assert torch.ones(1).is_inference()


def test_other_threads_go_on_as_before():
    found = []

    def elsewhere():
        calls, x = [], torch.ones(1, requires_grad=True)
        for use_reentrant in (True, False):
            run = lambda x: calls.append(1) or x * x  # noqa: E731
            checkpointing.checkpoint(run, x, use_reentrant=use_reentrant).backward()
        with torch.inference_mode():
            found.extend([len(calls), torch.ones(1).is_inference()])

    with running_eagerly():
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        with torch.inference_mode():
            assert not torch.ones(1).is_inference()
    assert found == [4, True]  # both functions ran again for their backward pass


def test_two_threads_may_overlap():
    entered, leave = threading.Event(), threading.Event()

    def first():
        with running_eagerly():
            entered.set()
            leave.wait()

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait()
    with running_eagerly():
        leave.set()
        thread.join()
        assert checkpointing.CheckpointFunction is not ORIGINALS[0]
    assert checkpointing.CheckpointFunction is ORIGINALS[0]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # by the compiler itself
def test_compiled_submodules_are_not_compiled_again():
    compilations = []

    def backend(graph, inputs):
        compilations.append(graph)
        return graph.forward

    model, plain = Net(), Net()
    model.blocks[1] = torch.compile(model.blocks[1], backend=backend)
    model.blocks[0].compile(backend=backend)
    model.how = torch.compile(lambda block, x: block(x), backend=backend)
    scores = bgsc(model, X)
    assert [own.tolist() for own in scores.values()] == [own.tolist() for own in bgsc(plain, X).values()]
    result = prune(model, X, "macs=0.6", repair="merge")
    assert not compilations
    assert result.after.macs == prune(plain, X, "macs=0.6", repair="merge").after.macs
    model(X)
    assert compilations
