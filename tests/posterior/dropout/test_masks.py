"""Tests that masks are functions of seed, sample, site and shape alone."""

import copy
import pickle

import numpy as np
import pytest
import torch

from baal_ray.posterior.dropout.masks import MaskCache, PerItemMasks, SharedMasks

CPU = torch.device("cpu")


def shared(seed=0, k=0, site=0, shape=(1, 400), p=0.5):
    return SharedMasks(seed, (k,)).keep(site, shape, p, CPU)


def test_a_mask_never_changes():
    # Existing score files depend on these numbers. Another mask would need another fingerprint.
    mask = SharedMasks(seed=7, ks=(3,)).keep(1, (1, 16), 0.5, CPU)
    assert mask.dtype == torch.bool
    assert mask.shape == (1, 1, 1, 16)
    assert "".join(str(int(bit)) for bit in mask.flatten()) == "1000111000010111"


def test_samples_drawn_together_are_those_drawn_alone():
    together = SharedMasks(0, (2, 0)).keep(0, (1, 50), 0.5, CPU)
    assert torch.equal(together, torch.cat([shared(k=2, shape=(1, 50)), shared(shape=(1, 50))]))
    ids = ["a", "b"]
    together = PerItemMasks(0, (2, 0), ids).keep(0, (1, 50), 0.5, CPU)
    alone = [PerItemMasks(0, (k,), ids).keep(0, (1, 50), 0.5, CPU) for k in (2, 0)]
    assert together.shape == (2, 2, 1, 50)
    assert torch.equal(together, torch.cat(alone))


@pytest.mark.parametrize("other", [{"seed": 1}, {"k": 1}, {"site": 1}])
def test_seeds_samples_and_sites_have_masks_of_their_own(other):
    # Two masks of 400 fair units share half of them, with a standard deviation of 10.
    same = (shared() == shared(**other)).sum().item()
    assert 150 < same < 250


def test_a_share_p_is_dropped():
    for p in (0.1, 0.5, 0.9):
        dropped = 1 - shared(shape=(1, 100_000), p=p).float().mean().item()
        assert dropped == pytest.approx(p, abs=0.01)


def test_raising_p_only_drops_more():
    kept = shared(p=0.2)
    assert (kept | ~shared(p=0.7)).all()


def test_the_callers_random_state_is_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    shared(seed=5)
    assert torch.equal(torch.rand(1), expected)


def test_a_default_device_does_not_matter():
    expected = shared(seed=6)
    with torch.device("meta"):
        assert torch.equal(shared(seed=6), expected)


def test_numpys_numbers_and_strings_key_as_pythons_do():
    # Ray Data passes ids as NumPy arrays.
    ids = ["a", "b"]
    mine = PerItemMasks(0, (0,), ids).keep(0, (1, 50), 0.5, CPU)
    theirs = PerItemMasks(0, (0,), np.array(ids)).keep(0, (1, 50), 0.5, CPU)
    assert torch.equal(mine, theirs)


def test_per_item_masks_follow_their_id():
    one = PerItemMasks(0, (0,), ["a", "b", "c"]).keep(0, (1, 50), 0.5, CPU)
    other = PerItemMasks(0, (0,), ["c", "a"]).keep(0, (1, 50), 0.5, CPU)
    assert torch.equal(one[:, [2, 0]], other)
    assert not torch.equal(one[:, 0], one[:, 1])


def test_the_cache_stays_within_its_bytes():
    # Of 100 masks of 1 kB, the first ten fit in the cache. The rest are drawn again.
    cache = MaskCache(max_bytes=10_000)
    first = [SharedMasks(0, (k,), cache).keep(0, (1, 1000), 0.5, CPU) for k in range(100)]
    again = [SharedMasks(0, (k,), cache).keep(0, (1, 1000), 0.5, CPU) for k in range(100)]
    held = [one.data_ptr() == other.data_ptr() for one, other in zip(first, again, strict=True)]
    assert held == [True] * 10 + [False] * 90
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copied_cache_is_empty(duplicate):
    cache = MaskCache(max_bytes=10_000)
    mask = SharedMasks(0, (0,), cache).keep(0, (1, 10_000), 0.5, CPU)
    copied = duplicate(cache)
    assert copied.max_bytes == 10_000
    # The copy has room for a mask that the original would not take any more.
    one, other = (SharedMasks(0, (1,), copied).keep(0, (1, 10_000), 0.5, CPU) for _ in range(2))
    assert one.data_ptr() == other.data_ptr() != mask.data_ptr()


def test_masks_made_in_inference_mode_serve_a_gradient_later():
    cache = MaskCache()
    with torch.inference_mode():
        SharedMasks(0, (0,), cache).keep(0, (1, 8), 0.5, CPU)
    mask = SharedMasks(0, (0,), cache).keep(0, (1, 8), 0.5, CPU)
    weight = torch.ones(1, 1, 1, 8, requires_grad=True)
    torch.where(mask, weight, 0).sum().backward()
    assert torch.equal(weight.grad, mask.float())
