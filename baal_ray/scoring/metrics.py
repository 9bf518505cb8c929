"""What a scoring actor tells Ray's dashboard, and Prometheus, of its work."""

import threading
import time

import torch
from ray.util.metrics import Counter, Gauge

# Rates are of so many seconds at least.
_WINDOW = 10.0

_LABELS = ("model",)


class DeviceTime:
    """How long a device works on what it is given inside a `with` block.

    A GPU takes it from a queue: its time begins when what was in the queue before is done.
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
        """After the block: wait for the device, and say how long it took."""
        if self._events is None:
            return self._ended - self._begun
        begun, ended = self._events
        ended.synchronize()
        return float(begun.elapsed_time(ended)) / 1000


class ScoringMetrics:
    """Counts images and the share of time that the actor's device has work.

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
        self._lock = threading.Lock()
        self._scored = Counter("baal_ray_images_scored", "Images given a score.", _LABELS)
        self._unreadable = Counter(
            "baal_ray_images_unreadable", "Images given an error instead.", _LABELS
        )
        self._rate = Gauge("baal_ray_images_per_second", "Images an actor got through.", _LABELS)
        self._busy = Gauge(
            "baal_ray_busy_fraction",
            "The share of the time that an actor's device had a mini-batch to work on, 0 to 1.",
            _LABELS,
        )
        self._memory = Gauge(
            "baal_ray_gpu_memory_bytes", "The most GPU memory an actor held.", _LABELS
        )
        for metric in (self._scored, self._unreadable, self._rate, self._busy, self._memory):
            metric.set_default_tags({"model": model[:12]})
        self._begin()

    def worked(self, seconds: float) -> None:
        """Of the device, on a mini-batch."""
        with self._lock:
            self._seconds += seconds

    def count(self, images: int, unreadable: int) -> None:
        """Of a mini-batch that is done."""
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
