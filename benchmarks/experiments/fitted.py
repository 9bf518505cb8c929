"""Models fitted on real images, for benchmarks that need realistic predictions to rank."""

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import DenseNet

from baal_ray.images import decode_many


def read_images(path, images, seed):
    """Read this number of images of a Parquet file with `image` and `label`, in random order.

    Returns:
        Pixels in −1…1, float32 [N, 3, H, W], and labels [N].
    """
    table = pq.read_table(path, columns=["image", "label"])
    order = np.random.default_rng(seed).permutation(len(table))[:images]
    table = table.take(order)
    pixels, _ = decode_many(table["image"].to_pylist(), 32, 32, max_pixels=10**6)
    return torch.from_numpy(pixels).float() / 127.5 - 1, torch.from_numpy(
        table["label"].to_numpy().astype(np.int64)
    )


def densenet(classes):
    """Return a small DenseNet with dropout in every layer."""
    return DenseNet(
        growth_rate=12,
        block_config=(4, 4, 4),
        num_init_features=24,
        drop_rate=0.2,
        num_classes=classes,
    )


def fit(model, images_N, labels_N, epochs, batch_size=64):
    """Fit with AdamW and a cosine schedule, and freeze the model in evaluation mode."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    steps = epochs * -(-len(images_N) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        for some in torch.randperm(len(images_N)).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(model(images_N[some]), labels_N[some]).backward()
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)


def accuracy(model: nn.Module, images_N, labels_N):
    """Return the share of images that one deterministic pass gets right."""
    with torch.inference_mode():
        predicted = torch.cat([model(some).argmax(1) for some in images_N.split(256)])
    return (predicted == labels_N).float().mean().item()


def overlap(one_N, other_N, k):
    """Return the share of one ranking's top k that is also in the other's."""
    return len(set(one_N.topk(k).indices.tolist()) & set(other_N.topk(k).indices.tolist())) / k
