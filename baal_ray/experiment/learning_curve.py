"""One learning curve: a rule acquires, a simulated oracle answers, and the model is fitted again.

A point depends only on the settings, the rule, the seed and the earlier picks. If it has to be
computed again after a failure, the result is therefore the same.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from baal_ray import storage
from baal_ray.experiment.config import ExperimentConfig, TrialConfig
from baal_ray.experiment.labelled_images import LabelledImages
from baal_ray.ids import hash_ids
from baal_ray.model import build_classifier
from baal_ray.posterior import MCDropout
from baal_ray.posterior.head_inputs import features
from baal_ray.score_names import SCORE_COLUMNS
from baal_ray.selection.joint_rules import best_together, candidates_for
from baal_ray.selection.near_duplicates import spread_out
from baal_ray.selection.ranking import Ranking
from baal_ray.training.evaluation import evaluation_sums, metrics, no_images
from baal_ray.training.optimisation import fit

Rows = npt.NDArray[np.intp]

CURVE = pa.schema(
    [
        ("rule", pa.string()),
        ("seed", pa.int32()),
        ("round", pa.int32()),
        ("labels", pa.int32()),
        ("accuracy", pa.float64()),
        ("nll", pa.float64()),
        ("ece", pa.float64()),
        ("picks", pa.list_(pa.string())),
        ("fit_seconds", pa.float64()),
        ("score_seconds", pa.float64()),
    ]
)


class Curve:
    """A rule's curve for one seed. It keeps the model between points, to trace it only once."""

    def __init__(
        self,
        config: ExperimentConfig,
        rule: TrialConfig,
        seed: int,
        pool: LabelledImages,
        evaluation: LabelledImages,
    ) -> None:
        """Build the model.

        Args:
            config: Configuration of the experiment.
            rule: Rule on trial.
            seed: Seed of the curve. All rules of a seed start with the same labelled images.
            pool: Images to pick from, with ids in ascending order.
            evaluation: Images to evaluate on.
        """
        self._config, self._rule, self._seed = config, rule, seed
        self._pool, self._evaluation = pool, evaluation
        self._device = torch.device("cuda" if config.gpus else "cpu")
        self._row_of = {image_id: row for row, image_id in enumerate(pool.ids)}
        self._ids = np.array(pool.ids, dtype=object)
        self._classifier = build_classifier(config.model, len(config.classes)).to(self._device)
        self._posteriors: dict[int, MCDropout] = {}

    def point(self, earlier_picks: Sequence[Sequence[str]]) -> dict[str, Any]:
        """Fit on the start set and the earlier picks, evaluate, and pick for the next point.

        Args:
            earlier_picks: Ids picked in each earlier round.

        Returns:
            A row of `CURVE`.
        """
        number = len(earlier_picks)
        seed = self._seed_of(number)
        chosen = [self._row_of[image_id] for picks in earlier_picks for image_id in picks]
        labelled = np.concatenate([self._start(), np.array(chosen, dtype=np.intp)])
        begun = time.monotonic()
        self._fit(labelled, seed)
        fitted = time.monotonic()
        figures = self._measure()
        measured = time.monotonic()
        picks = self._pick(labelled, seed)
        return {
            "rule": self._rule.name,
            "seed": self._seed,
            "round": number,
            "labels": len(labelled),
            **{name: figures[name] for name in ("accuracy", "nll", "ece")},
            "picks": picks["id"].to_pylist(),
            "fit_seconds": fitted - begun,
            "score_seconds": time.monotonic() - measured,
        }

    def _seed_of(self, number: int) -> int:
        """Return the seed of a round, the same for all rules, so that luck does not favour one."""
        text = f"{self._config.seed} {self._seed} {number}"
        return int(storage.sha256(text.encode())[:8], 16)

    def _start(self) -> Rows:
        """Return the start set, fixed by the seed: the same number of images of each class."""
        order = np.argsort(hash_ids(self._pool.ids, self._config.seed + self._seed))
        classes = self._pool.labels_N[order]
        firsts = [order[classes == c][: self._config.start] for c in np.unique(classes)]
        return np.concatenate(firsts)

    def _fit(self, labelled: Rows, seed: int) -> None:
        torch.manual_seed(seed)
        fresh = build_classifier(self._config.model, len(self._config.classes))
        self._classifier.load_state_dict(fresh.state_dict())
        fit(
            self._classifier.requires_grad_(True),
            torch.from_numpy(self._pool.pixels_N[labelled]),
            torch.from_numpy(self._pool.labels_N[labelled]),
            self._config.model,
            self._config.training,
        )
        self._classifier.requires_grad_(False)

    def _measure(self) -> dict[str, float]:
        posterior = self._posterior(self._config.training.evaluation_samples)
        labels_N = torch.tensor(self._evaluation.labels_N)
        sums = no_images(self._device, len(self._config.classes))
        for start, images_N in self._mini_batches(self._evaluation.pixels_N):
            some_labels_N = labels_N[start : start + len(images_N)].to(self._device)
            sums += evaluation_sums(posterior.predict(images_N), some_labels_N)
        return metrics(sums.cpu())

    def _pick(self, labelled: Rows, seed: int) -> pa.Table:
        """Return the k best images that are not labelled yet, as a round would pick them."""
        rule, scoring, k = self._rule, self._config.scoring, self._config.k
        left = np.setdiff1d(np.arange(len(self._ids)), labelled)
        candidates = pa.table({"id": self._ids[left].tolist()})
        if rule.by == "random":
            return Ranking(rule.by, seed).best_of([candidates], k)
        if self._config.scored is not None:
            candidates = Ranking("random", seed + 1).best_of([candidates], self._config.scored)
        samples, pool = scoring.samples, len(candidates)
        scores = self._score(candidates, samples)
        for stage in scoring.further_stages:
            samples = stage.samples
            scores = self._score(self._best(scores, round(stage.share * pool), seed), samples)
        if not rule.narrows:
            return self._best(scores, k, seed)
        size = max(self._config.candidates, k)
        candidates = candidates_for(
            rule.by, self._ranking(seed), size, lambda by, n: by.best_of([scores], n)
        )
        if rule.most_alike is not None:
            features_N_D = self._features(self._rows(candidates))
            picks = spread_out(features_N_D, k, rule.most_alike)
            return candidates.take(pa.array(picks.numpy()))
        log_probs_N_K_C = self._log_probs(self._rows(candidates), samples)
        targets = self._targets(samples, seed) if rule.by == "epig" else None
        return best_together(rule.by, candidates, log_probs_N_K_C, k, seed, targets)

    def _best(self, scores: pa.Table, size: int, seed: int) -> pa.Table:
        return self._ranking(seed).best_of([scores], max(size, self._config.k))

    def _ranking(self, seed: int) -> Ranking:
        return Ranking(self._rule.ranked_by, seed, coldness=self._rule.coldness)

    def _score(self, candidates: pa.Table, samples: int) -> pa.Table:
        posterior = self._posterior(samples)
        found: dict[str, list[Tensor]] = {name: [] for name in SCORE_COLUMNS}
        for _, images_N in self._mini_batches(self._pool.pixels_N[self._rows(candidates)]):
            columns = posterior.statistics(images_N)
            for name, parts in found.items():
                parts.append(columns[name].cpu())
        scores = {name: torch.cat(parts).numpy() for name, parts in found.items()}
        return pa.table({"id": candidates["id"], **scores})

    def _targets(self, samples: int, seed: int) -> Tensor:
        """Return log-probabilities of EPIG's targets, a random sample of the pool."""
        everything = pa.table({"id": self._ids.tolist()})
        some = Ranking("random", seed + 2).best_of([everything], self._config.target_images)
        return self._log_probs(self._rows(some), samples)

    def _features(self, rows: Rows) -> Tensor:
        parts = self._mini_batches(self._pool.pixels_N[rows])
        output = self._config.model.output
        return torch.cat(
            [features(self._classifier, images_N, output).cpu() for _, images_N in parts]
        )

    def _log_probs(self, rows: Rows, samples: int) -> Tensor:
        posterior = self._posterior(samples)
        parts = self._mini_batches(self._pool.pixels_N[rows])
        return torch.cat([posterior.log_probs(images_N).cpu() for _, images_N in parts])

    def _rows(self, images: pa.Table) -> Rows:
        ids = images["id"].to_pylist()
        return np.array([self._row_of[image_id] for image_id in ids], dtype=np.intp)

    def _mini_batches(self, pixels_N: npt.NDArray[np.uint8]) -> Iterator[tuple[int, Tensor]]:
        """Yield the first row of each mini-batch, and its images on the device."""
        size = self._config.scoring.mini_batch
        for start in range(0, len(pixels_N), size):
            images_N = np.array(pixels_N[start : start + size])  # Ray's arrays are read-only
            yield start, torch.from_numpy(images_N).to(self._device)

    def _posterior(self, samples: int) -> MCDropout:
        """Return a posterior. It is kept, because a new one would trace the model again."""
        if samples not in self._posteriors:
            self._posteriors[samples] = MCDropout(
                self._classifier,
                samples,
                self._seed_of(0),
                self._config.scoring.masks,
                self._config.model.output,
                stochastic_depth=self._config.scoring.stochastic_depth,
            )
        return self._posteriors[samples]
