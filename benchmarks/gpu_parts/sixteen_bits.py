"""The effect of bfloat16 and float16 on the ranking by a fitted model.

The model is a small VGG with batch norm, fitted on the handwritten digits that scikit-learn ships.
"""

from functools import partial

import networks
import torch
from fitted import accuracy, fit, overlap
from part import Part
from sklearn.datasets import load_digits

from baal_ray.posterior import MCDropout

LABELLED, SAMPLES = 300, 20


def run(part: Part) -> None:
    """Fit and compare."""
    part.attempt("ranking", ranking)


def ranking(part: Part) -> None:
    """Compare the top k of 16 bits with float32's, and with that of other samples."""
    digits = load_digits()
    images_N = torch.from_numpy(digits.images).float().unsqueeze(1) / 8 - 1
    images_N = torch.nn.functional.interpolate(images_N, (32, 32)).repeat(1, 3, 1, 1)
    images_N = images_N.to(part.device)
    labels_N = torch.from_numpy(digits.target).to(part.device)
    torch.manual_seed(0)
    model = networks.vgg16_bn_32(10, width=0.125 if part.tiny else 0.5).to(part.device)
    fit(model, images_N[:LABELLED], labels_N[:LABELLED], 1 if part.tiny else 30)
    pool_N = images_N[LABELLED:]
    correct = accuracy(model, pool_N, labels_N[LABELLED:])
    part.report("accuracy of the fitted model", correct, note=f"{LABELLED} labels, sklearn digits")
    k = len(pool_N) // 10
    plain_N = bald(model, pool_N, seed=0)
    others = {
        "bfloat16": partial(torch.autocast, part.device, torch.bfloat16),
        "float16": partial(torch.autocast, part.device, torch.float16),
    }
    for name, precise in list(others.items())[: 1 if part.tiny else None]:
        with precise():
            kept = overlap(plain_N, bald(model, pool_N, seed=0), k)
        part.report(f"share of the top {k} of {len(pool_N)} that {name} keeps", kept)
    kept = overlap(plain_N, bald(model, pool_N, seed=1000), k)
    part.report(
        f"share of the top {k} that other samples keep", kept, note="float32, another seed"
    )


def bald(model, images_N, seed):
    """Return BALD of each image."""
    posterior = MCDropout(model, SAMPLES, seed)
    return torch.cat([posterior.statistics(some)["bald"] for some in images_N.split(128)]).cpu()
