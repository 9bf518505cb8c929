"""The settings of a round, read from YAML and checked as a whole."""

from baal_ray.config.document import Document, Section, differences
from baal_ray.config.round import RoundConfig
from baal_ray.config.sections import (
    AugmentationConfig,
    Classes,
    Count,
    Fraction,
    Location,
    ModelConfig,
    NotifyConfig,
    PoolConfig,
    ResourcesConfig,
    RuleConfig,
    ScoringConfig,
    SelectionConfig,
    StageConfig,
    TrainingConfig,
)

__all__ = [
    "AugmentationConfig",
    "Classes",
    "Count",
    "Document",
    "Fraction",
    "Location",
    "ModelConfig",
    "NotifyConfig",
    "PoolConfig",
    "ResourcesConfig",
    "RoundConfig",
    "RuleConfig",
    "ScoringConfig",
    "Section",
    "SelectionConfig",
    "StageConfig",
    "TrainingConfig",
    "differences",
]
