"""Several threads on one model, and on several: everyone finds the model and the process as they are."""

import random
import threading

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.utils.data import Dataset

import dfpc_plugin as dfpc
from dfpc_plugin.generators import generators_kept
from dfpc_plugin.preserve import evaluating, exclusive

IMAGES = torch.rand(1, 3, 32, 32)


class Pictures(Dataset):
    """Random images, which draw from the generator of the process."""

    classes = ("a", "b")

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.randn(3, 32, 32), index % 2


def together(*functions, times=4):
    """Call functions over and over, each in a thread of its own; return what they raised."""
    errors = []

    def run(function):
        try:
            for _ in range(times):
                function()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=2).train()


@pytest.mark.parametrize("busy", ["find_couplings", "bgsc", "evaluate_model"])
def test_a_model_that_is_scored_elsewhere_is_copied_as_it_is(busy, model, tmp_path):
    calls = {
        "find_couplings": lambda: dfpc.find_couplings(model, IMAGES),
        "bgsc": lambda: dfpc.bgsc(model, IMAGES),
        "evaluate_model": lambda: dfpc.evaluate_model(model, Pictures(), 4),
    }
    found, numbers = [], iter(range(100))

    def prune():
        found.append(dfpc.prune(model, IMAGES, "macs=0.7").model)

    def save():
        found.append(dfpc.load_pruned(dfpc.save_pruned(model, tmp_path / str(next(numbers)))).train())

    before = states()
    assert together(calls[busy], prune, save, calls[busy]) == []
    assert len(found) == 8 and all(module.training for each in (model, *found) for module in each.modules())
    assert states() == before


def test_fine_tuning_in_threads_is_fine_tuning_in_turns(model):
    settings = [dfpc.FinetuneSettings(steps=steps, batch_size=4) for steps in (2, 5)]

    def weights(one):
        return dfpc.finetune(model, Pictures(), settings=one).model.state_dict()

    expected, found = [weights(one) for one in settings], {}
    calls = [lambda number=number: found.update({number: weights(settings[number])}) for number in range(2)]
    assert together(*calls, times=1) == []
    assert all(torch.equal(found[n][name], value) for n, each in enumerate(expected) for name, value in each.items())


@pytest.mark.filterwarnings("ignore")  # of torch's exporter, which are heard where it runs alone
def test_exports_in_threads(model, tmp_path):
    call, numbers = nn.Module.__call__, iter(range(100))
    small = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert together(*[lambda: dfpc.export_program(small, IMAGES, tmp_path / f"{next(numbers)}.pt2")] * 3, times=1) == []
    assert nn.Module.__call__ is call and len(list(tmp_path.iterdir())) == 3


def test_the_last_thread_puts_the_generators_back():
    before, inside, leave = states(), threading.Event(), threading.Event()

    def other():
        with generators_kept():
            torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    with generators_kept():
        torch.rand(2)
        leave.set()
        thread.join()
        torch.rand(2)
    assert states() == before


def test_generators_are_put_back_at_the_end_of_every_block():
    with generators_kept():
        torch.manual_seed(3)
        before = states()
        with generators_kept():
            torch.rand(3)
        assert states() == before


@pytest.mark.timeout(30)
def test_threads_that_take_several_models_do_not_wait_for_each_other():
    models = [nn.Linear(1, 1) for _ in range(3)]

    def take(chosen):
        for _ in range(100):
            with exclusive(*chosen), evaluating(chosen[0]):
                pass

    assert (
        together(
            *(lambda order=order: take(order) for order in (models, models[::-1], models[1:] + models[:1])), times=1
        )
        == []
    )
