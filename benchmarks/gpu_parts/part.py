"""A part of benchmarks/gpu.py: the device, the time it has left, and the way to report figures.

This module loads all parts, and with them torch, Ray and baal. The process that imports it is
forked for each part, so none may use the GPU when it is imported.
"""

import json
import logging
import operator
import os
import shutil
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import structlog
import torch

_COMPARE = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}


class Part:
    """The options, the device and the time of a part.

    Attributes:
        options: The options of benchmarks/gpu.py.
        device: "cuda" or "cpu".
        tiny: Whether this is a rehearsal with tiny sizes.
        folder: An empty folder for the part's files.
    """

    def __init__(self, name: str, options: Namespace, seconds: float, send: int) -> None:
        self.options = options
        self.device: str = options.device
        self.tiny = options.device == "cpu"
        self._name, self._send = name, send
        self._end = time.monotonic() + seconds
        # Not in the folder of the results, which is carried back from the machine.
        self.folder = Path(tempfile.gettempdir(), "baal_ray_gpu", name)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    @property
    def left(self) -> float:
        """The seconds left."""
        return self._end - time.monotonic()

    def report(
        self, name: str, value: float | None, unit: str = "", goal: str = "", note: str = ""
    ) -> None:
        """Report a figure.

        Args:
            name: Name of the figure.
            value: Its value; None if there is none, which `note` then explains.
            unit: Its unit.
            goal: The goal, such as "<= 1.05".
            note: A remark.
        """
        met = None
        if goal and value is not None:
            sign, bound = goal.split()
            met = bool(_COMPARE[sign](value, float(bound)))
        entry = {"part": self._name, "name": name, "value": value, "unit": unit}
        entry |= {"goal": goal, "met": met, "note": note}
        os.write(self._send, json.dumps(entry).encode() + b"\n")

    def attempt(self, name: str, work: Callable[..., Any], *arguments: Any) -> None:
        """Do a piece of work, and report it as failed instead of raising an error."""
        try:
            work(self, *arguments)
        except Exception as error:
            logging.exception("%s", name)
            self.report(f"{name}: failed", None, note=f"{type(error).__name__}: {error}"[:300])
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def seconds(self, run: Callable[[], object], repeats: int = 5) -> float:
        """Return the median seconds of a run on the device, after two to warm up."""
        run()
        run()
        return median(self._timed(run) for _ in range(repeats))

    def profile(self, title: str, run: Callable[[], object]) -> None:
        """Append the operators of a run, by their time on the device, to profile.txt."""
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self.device == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        with torch.profiler.profile(activities=activities) as profiler:
            run()
            if self.device == "cuda":
                torch.cuda.synchronize()
        order = "self_cuda_time_total" if self.device == "cuda" else "self_cpu_time_total"
        table = profiler.key_averages().table(
            sort_by=order, row_limit=20, max_name_column_width=70
        )
        with (self.options.out / "profile.txt").open("a") as file:
            file.write(f"{title}\n{table}\n\n")

    def _timed(self, run: Callable[[], object]) -> float:
        if self.device != "cuda":
            begun = time.perf_counter()
            run()
            return time.perf_counter() - begun
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        run()
        ended.record()
        ended.synchronize()
        return begun.elapsed_time(ended) / 1000


def run(name: str, options: Namespace, seconds: float, send: int) -> None:
    """Run a part in this process, which a signal to its group ends with all that it started."""
    os.setsid()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    _PARTS[name].run(Part(name, options, seconds, send))


_PARTS = {
    name: import_module(name)
    for name in ("right", "passes", "fed", "trained", "full", "sixteen_bits", "curves")
}
