"""Tests of the search for images that kill, in processes that really die."""

import os
import signal
from functools import partial

import pytest

from baal_ray.deaths import killed, search
from baal_ray.errors import ResourceError


class Work:
    """Work that dies of some items, or of too many at once."""

    def __init__(self, killers=(), most=100):
        self.killers, self.most = killers, most

    def __call__(self, items):
        if set(items) & set(self.killers):
            os.kill(os.getpid(), signal.SIGSEGV)
        if len(items) > self.most:
            os.kill(os.getpid(), signal.SIGKILL)
        if "faulty" in items:
            raise ValueError("no death")


def found(items, **work):
    return search(len(items), partial(Work, **work), lambda group: ([items[i] for i in group],))


def test_the_images_that_kill_are_found_with_the_number_of_their_deaths():
    result = found(["a", "faulty", "c", "d", "e"], killers=["d"])
    # [a … e], [d, e], and [d] twice
    assert result.killers == {3: 4}
    assert killed(4) == "it killed the process 4 times"


def test_too_many_at_once_is_no_image_s_fault():
    result = found(list("abcdefgh"), most=2)
    assert (result.killers, result.fewest) == ({}, 2)


def test_nothing_kills():
    assert found(["a", "faulty"]).killers == {}


def test_what_dies_without_an_image_blames_none():
    with pytest.raises(ResourceError, match="killed even without an image to work on"):
        found(["a"], most=-1)


def test_a_search_among_no_images_ends():
    assert search(0, partial(os._exit, 1), lambda group: (list(group),)).killers == {}
