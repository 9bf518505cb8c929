"""Image ids as 128-bit hashes: sets of 16 bytes per id, and an order that favours no image.

If a set holds M ids, the probability that it wrongly claims any of N other ids is M·N / 2¹²⁸. That
is 3e-23 for 10⁸ ids each.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Hashes = npt.NDArray[np.bytes_]
Ids: TypeAlias = pa.Array | pa.ChunkedArray | Iterable[str]

_WIDTH = 16

# Number of ids held as Python objects at once; objects take ten times the memory of hashes.
_AT_ONCE = 2**16


def hash_ids(ids: Ids, seed: int | None = None) -> Hashes:
    """Return the BLAKE2b hash of each id's UTF-8 bytes, 16 bytes wide (dtype S16), in their order.

    Args:
        ids: Strings, compared byte by byte: two spellings of one character are two ids.
        seed: Key of the hash. Sorting by hashes of another seed gives an independent order.
    """
    key = b"" if seed is None else str(seed).encode()
    known = ids if isinstance(ids, pa.Array | pa.ChunkedArray) else list(ids)
    hashes: Hashes = np.empty(len(known), dtype=f"S{_WIDTH}")
    for start in range(0, len(known), _AT_ONCE):
        some = known[start : start + _AT_ONCE]
        strings = some if isinstance(some, list) else some.to_pylist()
        digests = hash_bytes((string.encode() for string in strings), key)
        hashes[start : start + len(digests)] = digests
    return hashes


def hash_bytes(contents: Iterable[bytes], key: bytes = b"") -> Hashes:
    """Return the BLAKE2b hash of each value, 16 bytes wide (dtype S16), in their order."""
    digests = [blake2b(data, digest_size=_WIDTH, key=key).digest() for data in contents]
    return np.frombuffer(b"".join(digests), f"S{_WIDTH}")


class IdSet:
    """A set of ids as one sorted array of hashes.

    Ray shares such an array between the workers of a node without copying it.
    """

    def __init__(self, hashes: Hashes) -> None:
        """Keep hashes, which must be sorted and distinct."""
        self.hashes = hashes

    @classmethod
    def of(cls, ids: Ids) -> "IdSet":
        """Return the set of these ids."""
        return cls.of_hashes([hash_ids(ids)])

    @classmethod
    def of_hashes(cls, parts: Iterable[Hashes]) -> "IdSet":
        """Return the set of all ids whose hashes are in the parts, which may be in any order."""
        hashes = np.concatenate([np.empty(0, f"S{_WIDTH}"), *parts])
        hashes.sort()
        repeated = hashes[1:] == hashes[:-1]
        return cls(hashes[np.append(True, ~repeated)] if repeated.any() else hashes)

    def __len__(self) -> int:
        return len(self.hashes)

    def __or__(self, other: "IdSet") -> "IdSet":
        return IdSet.of_hashes([self.hashes, other.hashes])

    def contains(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Return, for each of these ids in order, whether it is in the set."""
        return self.holds(hash_ids(ids))

    def holds(self, asked: Hashes) -> npt.NDArray[np.bool_]:
        """Return, for each of these hashes in order, whether it is in the set."""
        if not len(self):
            return np.zeros(len(asked), dtype=bool)
        # Sorted, most of each search stays in the processor's cache: less than half the time.
        order = np.argsort(asked)
        found = np.empty(len(asked), np.intp)
        found[order] = np.searchsorted(self.hashes, asked[order])
        same: npt.NDArray[np.bool_] = self.hashes[np.minimum(found, len(self) - 1)] == asked
        return same
