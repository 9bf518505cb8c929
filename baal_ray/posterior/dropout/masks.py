"""Dropout masks: the units that each posterior sample keeps, as a function of a key alone.

A mask is drawn in float32 on the CPU from a generator keyed by (seed, k, call site, mask shape),
and by the image's id if masks are per item. So neither the device, the precision, the order of
images, the number of actors nor a retry changes it, and the first 20 of 100 posterior samples are
the same as when only 20 are drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

import torch
from torch import Tensor

from baal_ray.posterior.memory import budget


class MaskCache:
    """A cache of masks.

    It exists because every mini-batch needs the same ones, and drawing them costs more than using
    them. A full cache keeps what it holds. Masks are used in the same order for each mini-batch,
    so making room for one would evict another just before its turn. Copies and pickles of the
    cache are empty.
    """

    def __init__(self, max_bytes: int | None = None) -> None:
        """Make an empty cache of `max_bytes`, by default as many as the device allows."""
        self.max_bytes = max_bytes
        self._used = 0
        self._masks: dict[tuple[Any, ...], Tensor] = {}

    # Autograd would refuse, in a later call, a mask made in the caller's inference mode.
    @torch.inference_mode(False)
    def keep(
        self,
        seed: int,
        ks: Sequence[int],
        site: int,
        shape: tuple[int, ...],
        p: float,
        device: torch.device,
    ) -> Tensor:
        """Return masks [K, *shape], True where a unit is kept."""
        place = (seed, tuple(ks), site, shape, p, device)
        mask = self._masks.get(place)
        if mask is None:
            mask = torch.stack([_keep((seed, k, site), shape, p) for k in ks]).to(device)
            room = budget(device) if self.max_bytes is None else self.max_bytes
            if self._used + mask.nbytes <= room:
                self._masks[place] = mask
                self._used += mask.nbytes
        return mask

    def __reduce__(self) -> tuple[type["MaskCache"], tuple[int | None]]:
        return MaskCache, (self.max_bytes,)


@dataclass(frozen=True)
class SharedMasks:
    """Masks of posterior samples, one set per sample, the same for every image."""

    seed: int
    ks: Sequence[int]
    cache: MaskCache = field(default_factory=MaskCache, repr=False, compare=False)

    def keep(self, site: int, shape: tuple[int, ...], p: float, device: torch.device) -> Tensor:
        """Return masks [K, 1, *shape], True where a unit is kept, the same for all N images."""
        return self.cache.keep(self.seed, self.ks, site, shape, p, device).unsqueeze(1)


@dataclass(frozen=True)
class PerItemMasks:
    """Masks of posterior samples, one set per sample and image.

    The key includes the image's id.
    """

    seed: int
    ks: Sequence[int]
    ids: Sequence[str]

    def keep(self, site: int, shape: tuple[int, ...], p: float, device: torch.device) -> Tensor:
        """Return masks [K, N, *shape], True where a unit is kept."""
        # str(): the repr of NumPy's strings is np.str_('…').
        masks = [
            _keep((self.seed, k, site, str(item)), shape, p) for k in self.ks for item in self.ids
        ]
        return torch.stack(masks).view(len(self.ks), len(self.ids), *shape).to(device)


class Masks(Protocol):
    """The masks of K posterior samples for each call site of dropout."""

    def keep(self, site: int, shape: tuple[int, ...], p: float, device: torch.device) -> Tensor:
        """Return masks [K, N or 1, *shape], True where a unit is kept."""
        ...


def _keep(key: tuple[int | str, ...], shape: tuple[int, ...], p: float) -> Tensor:
    digest = blake2b(repr((key, shape)).encode(), digest_size=8).digest()
    # Shifted, because PyTorch's generators take a signed seed.
    # "cpu" twice: the caller may have set another default device.
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1)
    return torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") >= p
