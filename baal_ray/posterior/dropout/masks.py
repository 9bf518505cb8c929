"""Which units each posterior sample keeps, as a function of its seed and place alone.

A mask is drawn in float32 on the CPU from a generator keyed by (seed, k, call site, mask shape),
so neither the device, the precision, the order of images, the number of actors nor a retry changes
it, and the first 20 of 100 posterior samples are the 20.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

import torch
from torch import Tensor


class MaskCache:
    """Masks drawn before, as every mini-batch needs the same ones and drawing costs more than use.

    When it is full, what it holds stays: masks come round in the same order for each mini-batch,
    so making room for one would throw out another just before its turn. Its copies and pickles
    are empty.
    """

    def __init__(self, max_bytes: int = 2**28) -> None:
        self.max_bytes = max_bytes
        self._used = 0
        self._masks: dict[tuple[Any, ...], Tensor] = {}

    # A mask made in the caller's inference mode would be refused by autograd in a later call.
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
        """True where a unit stays, [K, *shape]."""
        place = (seed, tuple(ks), site, shape, p, device)
        mask = self._masks.get(place)
        if mask is None:
            mask = torch.stack([_keep((seed, k, site), shape, p) for k in ks]).to(device)
            if self._used + mask.nbytes <= self.max_bytes:
                self._masks[place] = mask
                self._used += mask.nbytes
        return mask

    def __reduce__(self) -> tuple[type["MaskCache"], tuple[int]]:
        return MaskCache, (self.max_bytes,)


@dataclass(frozen=True)
class SharedMasks:
    """Posterior samples as one set of masks each, the same for every image."""

    seed: int
    ks: Sequence[int]
    cache: MaskCache = field(default_factory=MaskCache, repr=False, compare=False)

    def keep(self, site: int, shape: tuple[int, ...], p: float, device: torch.device) -> Tensor:
        """True where a unit stays, [K, 1, *shape]: the same for each of the N images."""
        return self.cache.keep(self.seed, self.ks, site, shape, p, device).unsqueeze(1)


@dataclass(frozen=True)
class PerItemMasks:
    """Posterior samples with masks for each image of its own, keyed by its id too."""

    seed: int
    ks: Sequence[int]
    ids: Sequence[str]

    def keep(self, site: int, shape: tuple[int, ...], p: float, device: torch.device) -> Tensor:
        """True where a unit stays, [K, N, *shape]."""
        # str: NumPy's strings print as np.str_('…').
        masks = [
            _keep((self.seed, k, site, str(item)), shape, p) for k in self.ks for item in self.ids
        ]
        return torch.stack(masks).view(len(self.ks), len(self.ids), *shape).to(device)


class Masks(Protocol):
    """The masks of K posterior samples for each call site of dropout."""

    def keep(self, site: int, shape: tuple[int, ...], p: float, device: torch.device) -> Tensor:
        """True where a unit stays, [K, N or 1, *shape]."""
        ...


def _keep(key: tuple[int | str, ...], shape: tuple[int, ...], p: float) -> Tensor:
    digest = blake2b(repr((key, shape)).encode(), digest_size=8).digest()
    # Not the top bit: PyTorch's generators take a signed seed.
    # "cpu" twice: the caller may have set another default device.
    generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest, "big") >> 1)
    return torch.rand(shape, generator=generator, dtype=torch.float32, device="cpu") >= p
