"""Judging a policy: rollouts in the environment that the data were recorded in."""

from lit_offrl.evaluation.environment import make_env
from lit_offrl.evaluation.raw_policy import RawPolicy
from lit_offrl.evaluation.rollout import Rollouts, evaluate, normalized_score, play

__all__ = ["RawPolicy", "Rollouts", "evaluate", "make_env", "normalized_score", "play"]
