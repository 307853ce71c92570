"""A small slippery grid with pits whose values are known exactly, and a mixture played on it."""

from __future__ import annotations

import gymnasium as gym
import minari
import numpy as np

from lit_offrl.data.builtin.recording import Behavior, Card, record
from lit_offrl.data.builtin.tabular import Array, TabularEnv, TabularMDP, register, sampled

ENV_ID = "lit_offrl/GridWorld-v0"
DATASET_ID = "lit_offrl/gridworld/mixed-v0"
DESCRIPTION = (
    "lit_offrl/GridWorld-v0 (5 by 5 cells, a goal worth +1, three pits worth -1, 0.01 per step, "
    "slips with probability 0.1 to either side): equal numbers of episodes of the optimal policy "
    "with 10 % and with 50 % random actions, of the random policy, and of one that takes the worst "
    "action. infos['behavior_log_prob'] is the log-probability of the action under the behavior "
    "that played the episode."
)

# S start, G goal, X pit. The shortest way runs between pits, a longer one around them.
GRID = (
    "....G",
    ".XX..",
    "....X",
    ".....",
    "S....",
)
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
HORIZON = 50
DISCOUNT = 0.95  # for which the behaviors' "optimal" and "worst" are meant
STEP_REWARD, GOAL_REWARD, PIT_REWARD = -0.01, 1.0, -1.0


def gridworld(slip: float = 0.1) -> TabularMDP:
    """Build the exact model.

    Args:
        slip: Probability of moving to each side of the wanted direction instead.
    """
    rows, cols = len(GRID), len(GRID[0])
    cells = np.array([list(row) for row in GRID]).reshape(-1)
    terminal = (cells == "G") | (cells == "X")
    transition = np.zeros((cells.size, len(MOVES), cells.size))
    for state in range(cells.size):
        for action in range(len(MOVES)):
            if terminal[state]:
                transition[state, action, state] = 1.0
                continue
            for turn, probability in ((0, 1.0 - 2.0 * slip), (1, slip), (-1, slip)):
                d_row, d_col = MOVES[(action + turn) % len(MOVES)]
                row = min(max(state // cols + d_row, 0), rows - 1)
                col = min(max(state % cols + d_col, 0), cols - 1)
                transition[state, action, row * cols + col] += probability
    entry_reward = np.full(cells.size, STEP_REWARD)
    entry_reward[cells == "G"] = GOAL_REWARD
    entry_reward[cells == "X"] = PIT_REWARD
    return TabularMDP(transition, entry_reward, terminal, (cells == "S").astype(float), HORIZON)


def behavior_policies(mdp: TabularMDP) -> dict[str, Array]:
    """Give the policies (S, A) that the data set mixes, in equal shares of its episodes."""
    q = mdp.optimal_q_values(DISCOUNT)
    best, worst, uniform = mdp.greedy_policy(q), mdp.greedy_policy(-q), mdp.uniform_policy()
    return {
        "optimal, 10 % random": 0.9 * best + 0.1 * uniform,
        "optimal, 50 % random": 0.5 * best + 0.5 * uniform,
        "random": uniform,
        "worst, 10 % random": 0.9 * worst + 0.1 * uniform,
    }


class GridWorldEnv(TabularEnv):
    """The grid as a Gymnasium environment.

    Args:
        slip: Probability of moving to each side of the wanted direction instead.
    """

    def __init__(self, slip: float = 0.1) -> None:
        super().__init__(gridworld(slip))


def make(scale: float = 1.0) -> minari.MinariDataset:
    """Write ``lit_offrl/gridworld/mixed-v0``: 1,000 episodes.

    Args:
        scale: The share of the episodes to play.
    """
    mdp = gridworld()
    behaviors = [
        Behavior(name, sampled(policy), 250, seed=100_000 * i)
        for i, (name, policy) in enumerate(behavior_policies(mdp).items())
    ]
    card = Card(
        DATASET_ID,
        DESCRIPTION,
        __name__,
        ref_min_score=round(mdp.expected_return(mdp.uniform_policy()), 6),
        ref_max_score=round(mdp.expected_return(mdp.optimal_policy(1.0)), 6),
    )
    return record(gym.make(ENV_ID), behaviors, card, scale)


register(ENV_ID, f"{__name__}:GridWorldEnv", HORIZON)
