"""One deterministic pass of ResNet18 over JPEGs in Daft, as its documentation writes it.

`pipeline.py --daft PYTHON` runs this. PYTHON is the interpreter of an environment with Daft, which
needs an older Arrow than this project's lock:

    python -m venv ENV
    ENV/bin/pip install "daft>=0.7,<0.8" torch torchvision
"""

import sys
import time

import daft
import numpy as np
import torch
from resnet import resnet18

SIDE, CLASSES = 224, 10


@daft.cls(max_concurrency=1)
class Classify:
    """The network in evaluation mode."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self._network = resnet18(CLASSES).eval()

    @daft.method.batch(return_dtype=daft.DataType.int64(), batch_size=64)
    def predict(self, images: daft.Series) -> np.ndarray:
        """Return the class of each image."""
        pixels = np.stack([np.asarray(image) for image in images.to_pylist()])
        images_N = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        with torch.inference_mode():
            return self._network(images_N).argmax(1).numpy()


def main() -> None:
    """Print the seconds from the listing of the files to the written predictions."""
    folder, target = sys.argv[1:]
    begun = time.perf_counter()
    files = daft.from_glob_path(f"{folder}/*.jpg").select("path")
    image = daft.col("path").download().decode_image(mode="RGB").resize(SIDE, SIDE)
    files = files.with_column("predicted", Classify().predict(image))
    files.write_parquet(target)
    print(time.perf_counter() - begun)


if __name__ == "__main__":
    main()
