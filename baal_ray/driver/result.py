"""What a round came to, for programs and in a line for people."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class RoundResult:
    """What a round came to.

    Attributes:
        round_id: its name.
        acquired: images it added to the manifest.
        committed_before: whether it was finished already, so that nothing was done now.
        checkpoint: sha256 of the model it scored with; None when its picks were random.
        rule: how the picks were ranked, but for the random ones.
        scored: images it scored; the others had scores from an earlier round.
        labels: labelled images that the model was fitted on.
        unreadable: images of the pool that cannot be read.
        metrics: of the fit's last epoch on the evaluation set.
        seconds: by stage.
        further_stages: of scoring, in their order: `samples`, in all, for how many `images`, how
            many of them `scored` now, and how many of those started from samples that were `kept`.
        stability: the share of the picks, 0 to 1, that would have been picked when a fifth of the
            posterior samples is left out, averaged over the fifths; None unless a rule by BALD
            alone chose them.
        random: how many of the picks were drawn at random.
    """

    round_id: str
    acquired: int
    committed_before: bool
    checkpoint: str | None
    rule: str
    scored: int
    unreadable: int
    labels: int
    metrics: dict[str, float]
    seconds: dict[str, float]
    further_stages: list[dict[str, int]] = field(default_factory=list)
    stability: float | None = None
    random: int = 0

    def summary(self) -> str:
        """In one line."""
        if self.committed_before:
            return f"round {self.round_id} is committed already: nothing to do"
        fitted = f"fitted on {self.labels} labels" if self.checkpoint else "nothing labelled yet"
        accuracy = (
            f", accuracy {self.metrics['accuracy']:.3f}" if "accuracy" in self.metrics else ""
        )
        candidates = "".join(
            f"; {stage['samples']} samples for the best {stage['images']}"
            for stage in self.further_stages
        )
        stability = (
            f"; {self.stability:.0%} of the picks stay when a fifth of the samples is left out"
            if self.stability is not None
            else ""
        )
        return (
            f"round {self.round_id}: {fitted}{accuracy}; {self.scored} images scored, "
            f"{self.unreadable} unreadable{candidates}; {self._picks()}{stability}"
        )

    def _picks(self) -> str:
        if not self.acquired:
            return "nothing to acquire: the pool has no image left to pick"
        if self.rule == "random" or not self.random:
            return f"{self.acquired} acquired by {self.rule}"
        return f"{self.acquired - self.random} acquired by {self.rule} and {self.random} at random"
