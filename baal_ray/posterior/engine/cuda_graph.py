"""Work on a GPU, recorded once as a CUDA graph and then started as a whole.

A pass of a network is hundreds of kernels, and launching them one by one can take longer than
running them: for 128 images and MobileNetV3, 15 ms instead of 3 ms on an H200.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class Recording:
    """A function of fixed-shape GPU tensors, recorded so that a call launches it as a whole.

    Attributes:
        results: The function's results. Each call overwrites them.
        pool: The memory that the recording keeps, for recordings that run after this one.
    """

    def __init__(
        self,
        run: Callable[..., Sequence[Tensor]],
        inputs: Sequence[Tensor],
        pool: Any = None,
    ) -> None:
        """Record the function.

        Args:
            run: The function. It has run before, must not wait for the GPU, and needs the same
                kernels whatever its inputs hold.
            inputs: Inputs of the shapes, types and memory layouts of all later ones.
            pool: Memory of a recording that always runs before this one. Its results are kept.

        Raises:
            RuntimeError: If the function cannot be recorded, or there is no memory for it.
        """
        self._inputs = [torch.empty_like(each).copy_(each) for each in inputs]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run(*self._inputs)  # so that libraries are set up for this thread and stream
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # Other threads go on using the GPU meanwhile.
        with torch.cuda.graph(
            self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"
        ):
            self.results = run(*self._inputs)
        self.pool = self._graph.pool()

    def __call__(self, *inputs: Tensor) -> Sequence[Tensor]:
        """Run the function in the present stream, and return `results`."""
        for own, given in zip(self._inputs, inputs, strict=True):
            own.copy_(given)
        self._graph.replay()
        return self.results
