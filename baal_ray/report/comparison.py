"""Active picks compared with random picks, by how often the model was wrong about each."""

from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import ceil

import pyarrow as pa
import pyarrow.compute as pc

from baal_ray import storage
from baal_ray.report.intervals import Interval, newcombe, wilson
from baal_ray.storage.files import REQUESTS_AT_A_TIME
from baal_ray.storage.parquet import open_parquet
from baal_ray.workspace import batch_uri
from baal_ray.workspace.table_schemas import LABELLED

# Number of labels at which the search ends. Rates that take more to distinguish count as the same.
_MOST_LABELS = 1_000_000


@dataclass(frozen=True)
class ErrorCount:
    """A count of labelled picks that the model took for another class when it picked them.

    Attributes:
        count: Number of these picks.
        of: Number of all labelled picks.
    """

    count: int = 0
    of: int = 0

    def __add__(self, other: "ErrorCount") -> "ErrorCount":
        return ErrorCount(self.count + other.count, self.of + other.of)

    def __str__(self) -> str:
        return f"{self.share:.0%} of {self.of}" if self.of else ""

    @property
    def share(self) -> float:
        """The share of wrong ones among the labelled picks. It is undefined if there are none."""
        return self.count / self.of

    @property
    def interval(self) -> Interval:
        """Wilson's interval for the share."""
        return wilson(self.count, self.of)


@dataclass(frozen=True)
class Comparison:
    """The active and the random picks of a round, or of several."""

    active: ErrorCount = ErrorCount()
    random: ErrorCount = ErrorCount()

    def __add__(self, other: "Comparison") -> "Comparison":
        return Comparison(self.active + other.active, self.random + other.random)

    @property
    def has_both(self) -> bool:
        """Whether there is anything to compare."""
        return bool(self.active.of and self.random.of)

    @property
    def difference(self) -> float:
        """The share of wrong ones among active picks, minus the share among random ones."""
        return self.active.share - self.random.share

    def interval(self, grown: float = 1) -> Interval:
        """Return Newcombe's interval for the difference. `grown` multiplies the labels."""
        counts = (self.active.count, self.active.of, self.random.count, self.random.of)
        return newcombe(*(grown * count for count in counts))

    def random_labels_missing(self) -> int | None:
        """Return how many more random labels would exclude 0 from the interval, or None.

        The observed rates, and the ratio of active to random labels, are assumed to hold. The
        result is None if it takes a million.
        """
        grown = 1.0
        while grown * self.random.of < _MOST_LABELS:
            low, high = self.interval(grown)
            if low > 0 or high < 0:
                return ceil((grown - 1) * self.random.of)
            grown *= 1.02
        return None


def compare_picks(workspace: str, rows: pa.Table) -> dict[str, Comparison]:
    """Compare the labels of each round's picks with the predictions of its model.

    Args:
        workspace: Workspace of the rounds.
        rows: Rows of the manifest.

    Returns:
        The comparison of each round, by id. Rounds without a model or a label are left out, and so
        are rounds of versions that did not record predictions.

    Raises:
        StorageError: If an acquisition batch cannot be read.
    """
    wanted = pc.and_(pc.equal(rows["status"], LABELLED), pc.is_valid(rows["model"]))
    labelled = rows.filter(wanted)
    rounds = sorted(set(labelled["round"].to_pylist()))
    with ThreadPoolExecutor(REQUESTS_AT_A_TIME) as threads:
        found = threads.map(partial(_predicted, workspace), rounds)
        predicted = dict(zip(rounds, found, strict=True))
    counts: Counter[tuple[str, bool, bool]] = Counter()
    columns = (labelled[name].to_pylist() for name in ("round", "id", "rule", "label"))
    for round_id, image_id, rule, label in zip(*columns, strict=True):
        prediction = predicted[round_id].get(image_id)
        if prediction is not None:
            counts[round_id, rule == "random", label != prediction] += 1

    def wrong(round_id: str, random: bool) -> ErrorCount:
        count, right = counts[round_id, random, True], counts[round_id, random, False]
        return ErrorCount(count, count + right)

    return {id: Comparison(wrong(id, False), wrong(id, True)) for id in {key[0] for key in counts}}


def _predicted(workspace: str, round_id: str) -> dict[str, str | None]:
    """Return the classes that a round's model predicted for its picks, without reading images."""
    found: dict[str, str | None] = {}
    for uri in storage.list_files(batch_uri(workspace, round_id), ".parquet"):
        if storage.is_named_by_sha256(uri):
            with open_parquet(uri) as file:
                rows = file.read(["id", "predicted"])
            found |= dict(zip(*(column.to_pylist() for column in rows), strict=True))
    return found


def comparison_lines(rounds: Collection[Comparison]) -> Iterator[str]:
    """Yield lines that say in plain words what the rounds show together.

    Only rounds with labels of both kinds of picks count. The active picks of other rounds come
    from another model, which may be wrong more or less often.
    """
    both = [comparison for comparison in rounds if comparison.has_both]
    if both:
        yield f"Picks that the model was wrong about (rounds: {len(both)}; 95% intervals):"
        yield from _lines(sum(both, Comparison()))
    elif any(comparison.active.of for comparison in rounds):
        yield (
            "No random pick has a label yet, so active picks cannot be compared with random ones. "
            "Set selection.random_share to draw random picks."
        )


def _lines(together: Comparison) -> Iterator[str]:
    for name, wrong in (("active", together.active), ("random", together.random)):
        low, high = wrong.interval
        yield f"  {name:10}  {wrong.share:.1%} of {wrong.of} ({low:.1%} to {high:.1%})"
    low, high = (100 * end for end in together.interval())
    yield f"  difference  {100 * together.difference:+.1f} points ({low:+.1f} to {high:+.1f})"
    if low > 0:
        yield (
            "The model was wrong about more of the active picks. They are harder for it, whether "
            "because it can learn from them or because they are blurred or mislabelled."
        )
    elif high < 0:
        yield (
            "The model was wrong about fewer of the active picks than of the random ones, so "
            "they correct it less. Try another selection.by."
        )
    else:
        yield f"No clear difference yet: {_what_it_takes(together.random_labels_missing())}."


def _what_it_takes(missing: int | None) -> str:
    if missing is None:
        return "at these rates a million labelled random picks would not be enough"
    about = f"about {float(f'{missing:.2g}'):,.0f} more"
    return f"at these rates it takes {about} labelled random picks, and active ones in proportion"
