"""Prune, repair and measure on a device that is not there, and compare with the CPU; prints a line of JSON per case."""

import json
import traceback
import warnings

import torch

import odd_numbers
from device_cases import CASES, IMAGES, NETWORKS
from fake_device import DEVICE, OnDevice, held, moved


def difference(build, act):
    """The largest difference between weights that come of the device and those that come of the CPU."""
    there, here = act(moved(build()), OnDevice), act(build(), lambda images: images)
    if here is None:
        return 0.0
    mine, other = held(there), here.state_dict()
    assert {name: t.shape for name, t in mine.items()} == {name: t.shape for name, t in other.items()}
    return max(float((mine[name].double() - other[name].double()).abs().max()) for name in other)


def main():
    wrong = moved(odd_numbers.model())
    for bad in (
        lambda: wrong(IMAGES),
        lambda: OnDevice(IMAGES) + torch.ones(8),
        lambda: torch.ones(8, device=DEVICE).numpy(),
    ):
        try:
            bad()
        except (RuntimeError, TypeError):
            continue
        raise AssertionError("the device takes tensors of the CPU")
    for build, name in NETWORKS:
        try:
            found = difference(build, CASES[name])
        except Exception:
            found = traceback.format_exc()[-1500:]
        print(json.dumps([build.__name__, name, found]), flush=True)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
