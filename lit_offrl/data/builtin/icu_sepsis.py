"""ICU-Sepsis: Choudhary, Gupta and Thomas (2024), https://arxiv.org/abs/2406.05646.

A tabular MDP of the treatment of sepsis, estimated from MIMIC-III. The model is read from the files
of the package icu-sepsis without importing it, since that would bring in the retired package gym.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import gymnasium as gym
import minari
import numpy as np

from lit_offrl.data.builtin.recording import Behavior, Card, record
from lit_offrl.data.builtin.tabular import Array, TabularEnv, TabularMDP, register, sampled
from lit_offrl.errors import InputError

ENV_ID = "lit_offrl/ICUSepsis-v0"
DATASET_ID = "lit_offrl/icu_sepsis/clinician-v0"
DESCRIPTION = (
    "Episodes of the clinicians' policy in ICU-Sepsis 2.0, the tabular MDP estimated from "
    "MIMIC-III: observation 0..715, action 5 times the first level plus the second (0..24), "
    "reward 1 for survival, discount 1. infos['behavior_log_prob'] is the log-probability of the "
    "action under the clinicians' policy."
)
HORIZON = 500
DEATH, SURVIVAL, LIMBO = 713, 714, 715  # LIMBO: where the package lets a finished episode go


@cache
def icu_sepsis() -> tuple[TabularMDP, Array]:
    """Read the MDP and the clinicians' policy (S, A).

    Actions that were too rare to estimate move as the mean of the others, which is the package's
    default.
    """
    spec = find_spec("icu_sepsis")
    if spec is None or spec.origin is None:
        raise InputError(
            "icu_sepsis/clinician needs the package icu-sepsis: "
            'run `pip install "lit_offrl[sepsis]"`.'
        )
    path = Path(spec.origin).parent / "envs" / "assets" / "dynamics.npz"
    with np.load(path, allow_pickle=False) as assets:
        transition, start = assets["tx_mat"], assets["d_0"]
        clinicians = assets["expert_policy"]
    terminal = np.zeros(len(start), dtype=bool)
    terminal[[DEATH, SURVIVAL, LIMBO]] = True
    entry_reward = np.zeros(len(start))
    entry_reward[SURVIVAL] = 1.0
    return TabularMDP(transition, entry_reward, terminal, start, HORIZON), clinicians


class ICUSepsisEnv(TabularEnv):
    """ICU-Sepsis with the 25 actions numbered, as ``Sepsis/ICU-Sepsis-v2`` of the package."""

    def __init__(self) -> None:
        super().__init__(icu_sepsis()[0])


def make(scale: float = 1.0) -> minari.MinariDataset:
    """Write ``lit_offrl/icu_sepsis/clinician-v0``: 2,000 episodes.

    Args:
        scale: The share of the episodes to play.
    """
    mdp, clinicians = icu_sepsis()
    card = Card(
        DATASET_ID,
        DESCRIPTION,
        __name__,
        ref_min_score=round(mdp.expected_return(mdp.uniform_policy()), 6),
        ref_max_score=round(mdp.expected_return(mdp.optimal_policy(1.0)), 6),
        requirements=("lit_offrl[sepsis]",),
    )
    behaviors = [Behavior("clinicians", sampled(clinicians), 2000, seed=0)]
    return record(gym.make(ENV_ID), behaviors, card, scale)


register(ENV_ID, f"{__name__}:ICUSepsisEnv", HORIZON)
