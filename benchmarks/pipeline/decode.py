"""Time the decoding of JPEGs to 224 by 224 pixels on one core: Pillow, torchvision and baal_ray.

Run `python benchmarks/pipeline/decode.py`. The last result is in decode.txt. The photographs are
generated: noise with the 1/f spectrum of natural images. The difference is the mean over the
colour values, out of 255, from a full decode and resize by Pillow.
"""

import time
import warnings
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torchvision.io import decode_image
from torchvision.transforms.v2.functional import resize

from baal_ray.images import decode, decoder_version

SIDE = 224
SIZES = [(500, 375), (1024, 768), (2000, 1500), (4000, 3000)]
SECONDS = 2.0


def photograph(width, height):
    """Return a JPEG of quality 90 of coloured 1/f noise."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(128, 4, (height, width, 3))
    for side in (4, 8, 16, 32, 64, 128, 256):
        shape = (max(2, side * height // width), side)
        for channel in range(3):
            blobs = Image.fromarray(rng.normal(0, 90 / side**0.5, shape).astype(np.float32))
            pixels[..., channel] += blobs.resize((width, height), Image.Resampling.BICUBIC)
    buffer = BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def pillow(data):
    """Decode in full, as Ray's `read_images` does."""
    image = (
        Image.open(BytesIO(data)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    )
    return np.asarray(image).transpose(2, 0, 1)


def torchvision(data):
    """Decode with the functions that torchvision has deprecated."""
    image = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), "RGB")
    return resize(image, [SIDE, SIDE], antialias=True).numpy()


def baal_ray(data):
    """Decode as the scoring stage does."""
    return decode(data, SIDE, SIDE, max_pixels=100_000_000)


def rate(decoder, data):
    """Return images per second of the fastest run, as the machine may be busy otherwise."""
    fastest, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        decoder(data)
        fastest = min(fastest, time.perf_counter() - start)
    return 1 / fastest


def main():
    """Print the table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, decoder {decoder_version()}\n")
    print(f"{'pixels':>12} {'KiB':>6} | images a second on one core      | difference")
    print(f"{'':>12} {'':>6} | {'Pillow':>9} {'torchvision':>11} {'baal_ray':>9} | of baal_ray")
    for width, height in SIZES:
        data = photograph(width, height)
        rates = [rate(decoder, data) for decoder in (pillow, torchvision, baal_ray)]
        difference = np.abs(baal_ray(data).astype(int) - pillow(data)).mean()
        print(
            f"{f'{width}x{height}':>12} {len(data) / 1024:>6.0f} | "
            f"{rates[0]:>9.1f} {rates[1]:>11.1f} {rates[2]:>9.1f} | {difference:.2f}"
        )


if __name__ == "__main__":
    main()
