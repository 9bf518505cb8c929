"""First samples of images that reach the next stage, kept so that they are drawn only once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from torch import Tensor

from baal_ray import storage
from baal_ray.ids import Hashes, IdSet, hash_ids
from baal_ray.posterior import MCDropout
from baal_ray.workspace.scores import is_foreign

LogProbs: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class KeptLogProbs:
    """Log-probabilities of some images under the first samples, in Ray's object store.

    Attributes:
        samples: Number of samples, K.
        images: Number of images.
        hashes: Hashes of the images' ids, sorted, one array per score file.
        log_probs_N_K_C: Log-probabilities, one array per score file, in the order of `hashes`.
    """

    samples: int
    images: int
    hashes: "list[ray.ObjectRef[Hashes]]"
    log_probs_N_K_C: "list[ray.ObjectRef[LogProbs]]"


def kept_log_probs(files: Sequence[str], ids: IdSet, samples: int) -> KeptLogProbs:
    """Put the log-probabilities that score files hold of some images into the object store.

    One small task per file does this, so they pass neither through this process nor through the
    actors' heaps.

    Args:
        files: Score files.
        ids: Ids of the images.
        samples: K of those scores.
    """
    read = ray.remote(num_returns=3)(_read_kept)
    wanted = ray.put(ids.hashes)
    # Ray's types promise one object per call, whatever `num_returns` says.
    parts: list[Any] = [read.remote(file, wanted, samples) for file in files]
    # Wait here. Otherwise a stage whose readers take every CPU would wait for these tasks, while
    # they wait for it.
    images = sum(ray.get([part[0] for part in parts]))
    return KeptLogProbs(samples, images, [part[1] for part in parts], [part[2] for part in parts])


def _read_kept(file: str, wanted: Hashes, samples: int) -> tuple[int, Hashes, LogProbs]:
    data = storage.read_verified(file)
    rows = pq.read_table(pa.BufferReader(data), columns=["id", "log_probs"])
    if is_foreign(file, rows.schema):
        rows = rows.slice(0, 0)
    rows = rows.filter(rows["log_probs"].is_valid())
    rows = rows.filter(pa.array(IdSet(wanted).contains(rows["id"])))
    hashes = hash_ids(rows["id"])
    flat = np.frombuffer(b"".join(rows["log_probs"].to_pylist()), np.float32)
    classes = flat.size // max(1, len(rows) * samples)
    order = np.argsort(hashes)
    return len(rows), hashes[order], flat.reshape(len(rows), samples, classes)[order]


class FirstSamples:
    """A source of first samples: the log-probabilities that were kept, or new draws."""

    def __init__(self, kept: KeptLogProbs, posterior: MCDropout) -> None:
        self._refs = kept.log_probs_N_K_C
        self._posterior = posterior
        by_file = ray.get(kept.hashes)
        hashes = np.concatenate([hash_ids([]), *by_file])
        rows = [np.arange(len(of_file)) for of_file in by_file]
        files = [np.full(len(of_file), i) for i, of_file in enumerate(by_file)]
        order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[order]
        self._row = np.concatenate([np.arange(0), *rows])[order]
        self._file = np.concatenate([np.arange(0), *files])[order]

    def __call__(self, images_N: Tensor, ids: Sequence[str], images: int) -> Tensor:
        """Return log-probabilities [N, K, C] of a mini-batch.

        Its first `images` rows are real; the rest is padding.
        """
        rows, kept = self._find(ids[:images])
        if len(rows) == images:
            first_N_K_C = torch.zeros(len(images_N), *kept[0].shape, device=images_N.device)
        else:
            first_N_K_C = self._posterior.log_probs(images_N, ids)
        if kept:
            first_N_K_C[rows] = torch.from_numpy(np.stack(kept)).to(first_N_K_C)
        return first_N_K_C

    def _find(self, ids: Sequence[str]) -> tuple[list[int], list[LogProbs]]:
        """Return the rows of the images with kept log-probabilities, and these, [K, C] each."""
        if not len(self._hashes):
            return [], []
        asked = hash_ids(ids)
        at = np.minimum(np.searchsorted(self._hashes, asked), len(self._hashes) - 1)
        rows = np.flatnonzero(self._hashes[at] == asked)
        # Not held, so that a node needs room only for the few files of one mini-batch.
        files = {file: ray.get(self._refs[file]) for file in np.unique(self._file[at[rows]])}
        return rows.tolist(), [files[self._file[i]][self._row[i]] for i in at[rows]]
