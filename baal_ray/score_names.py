"""Names of scores and acquisition rules, each written down once."""

from typing import Literal, get_args

#: A score of an image, and the rule that picks by it.
ScoreColumn = Literal[
    "bald",
    "predictive_entropy",
    "expected_entropy",
    "variation_ratio",
    "mean_std",
    "margin",
    "confidence",
]
#: A rule that draws images at random. The higher an image's BALD, the more likely it is drawn.
StochasticRule = Literal["power_bald", "softmax_bald"]
#: A rule that needs the predictions of several images at once.
JointRule = Literal["batch_bald", "epig"]
#: An acquisition rule.
Rule = Literal[ScoreColumn, StochasticRule, JointRule, "random"]

SCORE_COLUMNS: tuple[ScoreColumn, ...] = get_args(ScoreColumn)
STOCHASTIC_RULES: tuple[StochasticRule, ...] = get_args(StochasticRule)
JOINT_RULES: tuple[JointRule, ...] = get_args(JointRule)

#: Rules that rank images by a row of scores each.
RANKING_RULES = (*SCORE_COLUMNS, *STOCHASTIC_RULES, "random")
#: Rules that rank by BALD alone. `Ranking.overlaps` measures how stable their picks are.
BY_BALD = ("bald", *STOCHASTIC_RULES)
#: Scores that are informative when small. The others are informative when large.
SMALL_IS_INFORMATIVE = ("margin", "confidence")
#: Rules that work with one posterior sample too. The others measure how far samples disagree.
FOR_ONE_SAMPLE = ("predictive_entropy", "expected_entropy", "margin", "confidence", "random")

#: Number of groups of samples. Leaving out a fifth at a time shows how far BALD would change.
GROUPS = 5
#: BALD with each group of the posterior samples left out.
BALD_WITHOUT = tuple(f"bald_without_{group}" for group in range(1, GROUPS + 1))
#: The standard error of `bald`, and BALD without each group; null where undefined.
STABILITY_COLUMNS = ("bald_std_error", *BALD_WITHOUT)


def column_of(rule: str) -> str | None:
    """Return the score column that a rule ranks by; None for "random"."""
    if rule == "random":
        return None
    return "bald" if rule in STOCHASTIC_RULES else rule
