"""Time products of matrices in float32 on this CPU by MKL and by oneDNN.

Run `python benchmarks/engine/products.py`. The last result is in products.txt. It is the reason
why `products.py` of the posterior gives large products to oneDNN on AMD's CPUs.
"""

import time
from statistics import median

import torch
from torch.nn.functional import linear

# Rows, inputs and outputs: VGG16's first layers, one of ViT's, a thinned layer, and small ones.
CASES = [
    (128, 25088, 4096),
    (8, 25088, 4096),
    (128, 2048, 2048),
    (788, 768, 3072),
    (2000, 784, 128),
    (64, 512, 1000),
    (128, 512, 64),
    (16, 1280, 100),
    (128, 128, 64),
    (128, 128, 10),
]
REPEATS, MULTIPLICATIONS = 9, 1e9


def seconds(run, arguments, times):
    """Return the mean time of some runs."""
    begun = time.perf_counter()
    for _ in range(times):
        run(*arguments)
    return (time.perf_counter() - begun) / times


def by_onednn(x, weight, bias):
    """Compute `linear` by oneDNN."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@torch.inference_mode()
def main():
    """Run every case, and print the table."""
    name = torch.cpu.get_capabilities()["cpu_name"]
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads, float32")
    print("  rows  inputs  outputs  multiplications         MKL      oneDNN  ratio")
    for rows, inputs, outputs in CASES:
        arguments = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(outputs)
        size = rows * inputs * outputs
        times = max(1, min(300, int(MULTIPLICATIONS / size)))
        pairs = [
            [seconds(run, arguments, times) for run in (linear, by_onednn)]
            for _ in range(1 + REPEATS)
        ]
        mkl, onednn = (median(column) for column in zip(*pairs[1:], strict=True))
        print(
            f"{rows:6d}  {inputs:6d}  {outputs:7d}  {size:15.2g}  {mkl * 1e3:7.3f} ms  "
            f"{onednn * 1e3:7.3f} ms  {mkl / onednn:5.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
