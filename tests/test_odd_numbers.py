"""Models, inputs and images with odd numbers end in a good model or in one sentence; see `odd_numbers`."""

import time

import pytest

from odd_numbers import combinations, outcome, sample

MANY = 1000


def run(count):
    faults = []
    for odd, action in sample(count):
        start = time.process_time()
        fault = outcome(odd, action)
        took = time.process_time() - start
        if fault is not None or took > 30:
            faults.append(f"{action} with {odd}: {fault} ({took:.1f} s of the processor)")
    return faults


@pytest.mark.filterwarnings("default")
def test_a_sample():
    assert run(60) == []


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.filterwarnings("default")
def test_a_thousand():
    assert len(combinations()) > MANY
    assert run(MANY) == []
