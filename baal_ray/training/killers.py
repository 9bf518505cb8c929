"""The search for an image on which the worker of a fit dies."""

from collections.abc import Sequence
from functools import partial

import torch

from baal_ray import images
from baal_ray.deaths import Child, killed
from baal_ray.model import build_classifier
from baal_ray.posterior import MCDropout
from baal_ray.training.examples import Examples, encoded_images
from baal_ray.training.worker import FitJob


def find_killer(job: FitJob) -> str:
    """Describe an image of a fit on which a process dies, and its remedy; "" if there is none.

    Raises:
        ResourceError: If the process dies even without an image.
    """
    sets = {
        "labelled image": (job.training, "`baal-ray forget` permanently removes it"),
        "evaluation image": (job.evaluation, "Remove its row from the evaluation set"),
    }
    with Child(partial(_Rehearsal, job)) as child:
        for kind, (examples, remedy) in sets.items():
            for image_id, deaths in _killers(child, examples).items():
                return f". The {kind} {image_id!r} is to blame: {killed(deaths)}. {remedy}"
    return ""


def _killers(child: Child, examples: Examples) -> dict[str, int]:
    """Return the first images that kill, with the number of processes that each of them killed."""
    for encoded in encoded_images(examples, examples.class_of):
        ids, data = list(encoded), [image for image, _ in encoded.values()]
        found = child.search(len(ids), partial(_part, data))
        if found.killers:
            return {ids[position]: deaths for position, deaths in found.killers.items()}
    return {}


def _part(data: list[bytes | None], group: Sequence[int]) -> tuple[list[bytes | None]]:
    return ([data[position] for position in group],)


class _Rehearsal:
    """The work of a fit on images: to decode them, to learn from them and to predict them."""

    def __init__(self, job: FitJob) -> None:
        config = job.config
        self._size, self._max_pixels = config.model.image_size, config.scoring.max_pixels
        self._device = torch.device("cuda" if config.resources.training_gpus else "cpu")
        self._model = build_classifier(config.model, len(config.classes)).to(self._device)
        self._posterior = MCDropout(
            self._model,
            config.training.evaluation_samples,
            config.seed,
            output=config.model.output,
            stochastic_depth=config.scoring.stochastic_depth,
        )

    def __call__(self, encoded: Sequence[bytes | None]) -> None:
        pixels, _ = images.decode_many(encoded, *self._size, max_pixels=self._max_pixels)
        if not len(pixels):
            return
        # Batch norm needs two images.
        images_N = torch.from_numpy(pixels).repeat(2, 1, 1, 1).to(self._device)
        self._model.train()
        self._model(images_N).float().sum().backward()
        self._model.zero_grad()
        self._posterior.predict(images_N)
