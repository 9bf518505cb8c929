"""Time 3 by 3 convolutions on this CPU with channels last and channels first.

Run `python benchmarks/engine/layout.py`. The last result is in layout.txt. It is the reason why
`simplify.py` runs convolutions of many channels over few pixels channels first.
"""

import time
from statistics import median

import torch

IMAGES = (16, 64, 128)
CASES = [(512, 2), (256, 4), (512, 4), (512, 5), (256, 6), (512, 7), (256, 8), (128, 14), (64, 32)]
REPEATS = 9


def seconds(run):
    """Return the median time of some runs after a first one."""
    run()
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return median(times)


def main():
    """Run every case, and print the table."""
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32")
    print("images  channels  pixels  channels first  channels last  ratio")
    for images in IMAGES:
        for channels, side in CASES:
            first = (
                torch.randn(images, channels, side, side),
                torch.randn(channels, channels, 3, 3),
            )
            last = [x.contiguous(memory_format=torch.channels_last) for x in first]
            with torch.inference_mode():
                first_s, last_s = (
                    seconds(lambda x=x, weight=weight: torch.conv2d(x, weight, padding=1))
                    for x, weight in (first, last)
                )
            print(
                f"{images:6d}  {channels:8d}  {side:3d}×{side:<2d}  {first_s * 1e3:11.2f} ms  "
                f"{last_s * 1e3:10.2f} ms  {first_s / last_s:5.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
