"""The traces of a model that a posterior keeps, one for each kind of mini-batch."""

import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakKeyDictionary

from baal_ray.posterior.engine.trunk_once import TrunkOnce
from baal_ray.posterior.trace_checks import is_due

# Number of traces to keep. Each set of images needs two, as its last mini-batch is smaller.
_MOST = 8
# Number of traces of the same mini-batches at which a warning says so.
_TOLD_AT = 3


class Traces:
    """Traces by key: everything that a trace depends on, beginning with the shape of the images.

    A trace is made when its key comes first, held against the model again once the weights have
    changed, and dropped when many others have been used since. For a model that cannot be traced,
    None is kept.
    """

    def __init__(self) -> None:
        self._by_key: OrderedDict[Hashable, TrunkOnce | None] = OrderedDict()
        self._right: set[Hashable] = set()
        self._made: Counter[Hashable] = Counter()
        self._drawn: WeakKeyDictionary[TrunkOnce, int] = WeakKeyDictionary()

    def clear(self) -> None:
        """Drop all traces."""
        self._by_key.clear()

    def weights_have_changed(self) -> None:
        """Hold each trace against the model again before it is used."""
        self._right.clear()

    def last(self, key: Hashable) -> TrunkOnce | None:
        """Return the trace that was used last, if it is that of a key and still right."""
        used, trace = next(reversed(self._by_key.items()), (None, None))
        return trace if used == key and key in self._right else None

    def of(
        self,
        key: tuple[Any, ...],
        make: Callable[[], TrunkOnce | None],
        still_right: Callable[[TrunkOnce], bool],
    ) -> TrunkOnce | None:
        """Return the trace of a key, or None if the model cannot be traced.

        Args:
            key: The key.
            make: Function that traces the model.
            still_right: Function that computes a trace's weights again, and returns whether it
                agrees with the model.
        """
        trace = self._by_key.get(key)
        if trace is not None and key not in self._right and not still_right(trace):
            del self._by_key[key]
        if key not in self._by_key:
            self._by_key[key] = make()
            self._count(key)
            if len(self._by_key) > _MOST:
                self._by_key.popitem(last=False)
        self._right.add(key)
        self._by_key.move_to_end(key)
        *others, trace = self._by_key.values()
        for other in filter(None, others):
            other.forget_recording()
        return trace

    def is_due(self, trace: TrunkOnce) -> bool:
        """Count a mini-batch, and return whether to hold it against the model."""
        self._drawn[trace] = drawn = self._drawn.get(trace, 0) + 1
        return is_due(drawn)

    def _count(self, key: tuple[Any, ...]) -> None:
        self._made[key] += 1
        if self._made[key] == _TOLD_AT:
            warnings.warn(
                f"the model was traced {_TOLD_AT} times for mini-batches of shape "
                f"{[*key[0]]}, which takes longer than a forward pass each time. Either its "
                "modules or their attributes change between calls, or mini-batches of more than "
                f"{_MOST} shapes take turns. Draw them in the order of their shapes",
                RuntimeWarning,
                stacklevel=2,
            )
