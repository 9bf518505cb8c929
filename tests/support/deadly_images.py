"""Scores of a pool with two images that kill: one its decoder, by SIGSEGV, and one its model.

python deadly_images.py FOLDER

The second scoring leaves these images out. FOLDER holds what `write` made, and a sitecustomize.py
by which Python's processes die of a PNG with a comment `deadly`.
"""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from baal_ray.checkpoint import save_checkpoint
from baal_ray.config import ModelConfig, PoolConfig, ScoringConfig
from baal_ray.ids import IdSet
from baal_ray.images import encode_png
from baal_ray.model import build_classifier
from baal_ray.pool import list_pool, read_pool
from baal_ray.scoring import score_pool
from baal_ray.workspace import checkpoint_uri
from pools import CLASSES, table

KILLERS = ["deadly-to-decode", "deadly-to-score"]

DYING_DECODER = """
import os, signal
from PIL.PngImagePlugin import PngStream

original = PngStream.chunk_tEXt

def chunk(self, pos, length):
    found = original(self, pos, length)
    if b"deadly" in found:
        os.kill(os.getpid(), signal.SIGSEGV)
    return found

PngStream.chunk_tEXt = chunk
"""


def commented() -> bytes:
    """Return a PNG that kills a process with `DYING_DECODER`."""
    comment, buffer = PngInfo(), BytesIO()
    comment.add_text("Comment", "deadly")
    Image.new("RGB", (12, 12)).save(buffer, "PNG", pnginfo=comment)
    return buffer.getvalue()


def write(folder: Path) -> None:
    """Write the pool, 6 harmless images and the two that kill, and the dying decoder."""
    harmless = table(0, 6).select(["id", "image"])
    white = encode_png(np.full((3, 12, 12), 255, np.uint8))
    deadly = pa.table({"id": KILLERS, "image": [commented(), white]})
    rows = pa.concat_tables([harmless.slice(0, 2), deadly, harmless.slice(2)])
    pq.write_table(rows, folder / "pool.parquet")
    (folder / "sitecustomize.py").write_text(DYING_DECODER)


def main(folder: str) -> None:
    """Score the pool with and without the images that kill."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    torch.manual_seed(0)
    model = ModelConfig(factory="pools:Deadly", image_size=[12, 12])
    sha256 = save_checkpoint(folder, build_classifier(model, 3), model, CLASSES)
    listing = list_pool(PoolConfig(uri=f"{folder}/pool.parquet"), "")
    config = ScoringConfig(samples=2, batch_size=4)
    for name, left_out in {"harmless": KILLERS, "all": []}.items():
        pool = read_pool(listing, leave_out=IdSet.of(left_out))
        checkpoint = checkpoint_uri(folder, sha256)
        done = score_pool(pool, checkpoint, f"{folder}/{name}", config=config, model=model)
        print(name, done, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
