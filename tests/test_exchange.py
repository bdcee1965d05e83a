"""Functions are exchanged while a block is open, and have an effect in its threads alone."""

import threading
from types import SimpleNamespace

import pytest

from dfpc_plugin.exchange import Exchange, put


@pytest.fixture
def place():
    """Something with a function that doubles, and an exchange that lets it triple."""
    owner = SimpleNamespace(function=lambda number: 2 * number)
    original = owner.function

    def install(undo):
        if owner.function is original:
            put(undo, owner, "function", lambda number: 3 * number if exchange.here else original(number))

    exchange = Exchange(install)
    return SimpleNamespace(owner=owner, original=original, exchange=exchange)


def test_a_function_is_exchanged_in_a_block_and_back_after_it(place):
    with place.exchange.block():
        assert place.owner.function(5) == 15
    assert place.owner.function is place.original


def test_blocks_nest(place):
    with place.exchange.block():
        with place.exchange.block():
            pass
        assert place.owner.function(5) == 15
    assert place.owner.function is place.original


def test_an_error_ends_a_block(place):
    with pytest.raises(KeyError), place.exchange.block():
        raise KeyError
    assert place.owner.function is place.original and not place.exchange.here


def test_an_install_that_fails_leaves_everything_as_it_was():
    owner = SimpleNamespace(function=len)

    def install(undo):
        put(undo, owner, "function", max)
        raise KeyError

    exchange = Exchange(install)
    with pytest.raises(KeyError), exchange.block():
        pass
    assert owner.function is len and not exchange.here


def test_other_threads_see_the_original_and_keep_what_they_opened(place):
    entered, leave, seen = threading.Event(), threading.Event(), {}

    def other():
        seen["outside"] = place.owner.function(5)
        with place.exchange.block():
            entered.set()
            leave.wait(10)
            seen["inside"] = place.owner.function(5)

    thread = threading.Thread(target=other)
    with place.exchange.block():
        thread.start()
        assert entered.wait(10)
    assert place.owner.function(5) == 10  # this thread has left its block
    leave.set()
    thread.join()
    assert seen == {"outside": 10, "inside": 15}
    assert place.owner.function is place.original


def test_arguments_reach_the_install():
    owner = SimpleNamespace(first=1, second=2)

    def install(undo, names):
        for name in names:
            put(undo, owner, name, 0)

    with Exchange(install).block(["first"]):
        assert (owner.first, owner.second) == (0, 2)
    assert (owner.first, owner.second) == (1, 2)
