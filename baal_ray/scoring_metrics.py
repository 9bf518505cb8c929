"""What a scoring actor tells Ray's dashboard, and Prometheus, of its work."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from ray.util.metrics import Counter, Gauge

# Rates are of so many seconds at least.
_WINDOW = 10.0

_LABELS = ("model",)


class ScoringMetrics:
    """Counts images and the share of time that the actor is not waiting for them.

    Ray adds its own prefix and labels, so Prometheus has `ray_baal_ray_images_scored_total` and so
    on, by model, node and worker.
    """

    def __init__(self, model: str, device: torch.device) -> None:
        """Begin to count.

        Args:
            model: its checkpoint's sha256, of which the first twelve digits become the label.
            device: whose memory is told; nothing is told of the CPU's.
        """
        self._device = device
        self._scored = Counter("baal_ray_images_scored", "Images given a score.", _LABELS)
        self._unreadable = Counter(
            "baal_ray_images_unreadable", "Images given an error instead.", _LABELS
        )
        self._rate = Gauge("baal_ray_images_per_second", "Images an actor got through.", _LABELS)
        self._busy = Gauge(
            "baal_ray_busy_fraction",
            "The share of its time that an actor was not waiting, 0 to 1.",
            _LABELS,
        )
        self._memory = Gauge(
            "baal_ray_gpu_memory_bytes", "The most GPU memory an actor held.", _LABELS
        )
        for metric in (self._scored, self._unreadable, self._rate, self._busy, self._memory):
            metric.set_default_tags({"model": model[:12]})
        self._begin()

    @contextmanager
    def working(self) -> Iterator[None]:
        """While the actor has a mini-batch."""
        begun = time.monotonic()
        yield
        self._seconds += time.monotonic() - begun

    def count(self, images: int, unreadable: int) -> None:
        """Of a mini-batch that is done."""
        for counter, more in ((self._scored, images - unreadable), (self._unreadable, unreadable)):
            if more:
                counter.inc(more)
        self._images += images
        passed = time.monotonic() - self._since
        if passed >= _WINDOW:
            self._rate.set(self._images / passed)
            self._busy.set(self._seconds / passed)
            if self._device.type == "cuda":
                self._memory.set(torch.cuda.max_memory_allocated(self._device))
            self._begin()

    def _begin(self) -> None:
        self._since, self._seconds, self._images = time.monotonic(), 0.0, 0
