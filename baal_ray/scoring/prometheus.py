"""Metrics that a scoring actor exports to Ray's dashboard and Prometheus."""

import threading
import time

import torch
from ray.util.metrics import Counter, Gauge

# The fewest seconds that a rate is measured over.
_WINDOW = 10.0

_LABELS = ("model",)


class DeviceTime:
    """The time that a device spends on the work it is given inside a `with` block.

    A GPU takes work from a queue, so its time begins when the earlier work in the queue is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._events = (
            [torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(2)]
            if device.type == "cuda"
            else None
        )

    def __enter__(self) -> "DeviceTime":
        self._begun = time.monotonic()
        if self._events:
            self._events[0].record()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended = time.monotonic()
        if self._events:
            self._events[1].record()

    def seconds(self) -> float:
        """Return the seconds that the device spent on the block, once it is done.

        Call this after the block.
        """
        if self._events is None:
            return self._ended - self._begun
        begun, ended = self._events
        ended.synchronize()
        return float(begun.elapsed_time(ended)) / 1000


class ScoringMetrics:
    """Metrics of the images that an actor scores, and of the time that its device is busy.

    Ray adds its own prefix and labels, so Prometheus has metrics such as
    `ray_baal_ray_images_scored_total`, by model, node and worker.
    """

    def __init__(self, model: str, device: torch.device) -> None:
        """Begin to count.

        Args:
            model: Sha256 of the checkpoint. Its first twelve digits become the label.
            device: Device of the actor. Memory is reported only for a GPU.
        """
        self._device = device
        self._lock = threading.Lock()
        self._scored = Counter("baal_ray_images_scored", "Images that got a score.", _LABELS)
        self._unreadable = Counter(
            "baal_ray_images_unreadable", "Images that got an error instead of a score.", _LABELS
        )
        self._rate = Gauge(
            "baal_ray_images_per_second", "Images that an actor processed per second.", _LABELS
        )
        self._busy = Gauge(
            "baal_ray_busy_fraction",
            "Share of the time, 0 to 1, in which an actor's device had a mini-batch to work on.",
            _LABELS,
        )
        self._memory = Gauge(
            "baal_ray_gpu_memory_bytes", "Most GPU memory that an actor held.", _LABELS
        )
        for metric in (self._scored, self._unreadable, self._rate, self._busy, self._memory):
            metric.set_default_tags({"model": model[:12]})
        self._begin()

    def worked(self, seconds: float) -> None:
        """Add the seconds that the device spent on a mini-batch."""
        with self._lock:
            self._seconds += seconds

    def count(self, images: int, unreadable: int) -> None:
        """Add the images of a finished mini-batch."""
        for counter, more in ((self._scored, images - unreadable), (self._unreadable, unreadable)):
            if more:
                counter.inc(more)
        with self._lock:
            self._images += images
            self._tell()

    def _tell(self) -> None:
        passed = time.monotonic() - self._since
        if passed >= _WINDOW:
            self._rate.set(self._images / passed)
            self._busy.set(self._seconds / passed)
            if self._device.type == "cuda":
                self._memory.set(torch.cuda.max_memory_allocated(self._device))
            self._begin()

    def _begin(self) -> None:
        self._since, self._seconds, self._images = time.monotonic(), 0.0, 0
