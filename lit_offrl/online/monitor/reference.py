"""What the log says of transitions: how likely they are, and how near to what it knows."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from lit_offrl.batch import Batch
from lit_offrl.data import Transitions
from lit_offrl.errors import InputError
from lit_offrl.evaluation.estimators.dynamics import DynamicsEnsemble, fit_dynamics
from lit_offrl.evaluation.logged import LoggedData, in_chunks, logged_data
from lit_offrl.scaling import Scaling

Array = NDArray[np.float64]
LEAST_EPISODES = 8
"""Episodes that a log must have to be split."""
MAX_ROWS = 20_000
"""Rows of the log that neighbors are looked for among."""
NEIGHBORS = 10
WITHIN = 0.99
"""Share of the log's own held-out rows that count as within its support."""
CAP = 0.999
"""Quantile of the log's held-out losses that a single row cannot exceed."""
LEAST_CAP = 10.0
"""Nats that a row may always lose."""
LEAST_SHARE = 0.05
"""Share of an episode that must lie within the support for its dynamics to be judged."""


@dataclass(frozen=True)
class EpisodeScores:
    """Numbers of one episode; larger is stranger.

    Args:
        dynamics: Mean excess of -log p(s', end | s, a) over that of similar logged rows, in nats,
            within the log's support; None if nothing of the episode lies there.
        reward: The same of -log p(r | s, a, s').
        state: Mean distance of an observation to the log's nearest ones.
        outside: Share of the rows whose (s, a) lies outside the log's support.
        ratio: Slope of the rewards on those of similar logged rows; None where these are all 0.
    """

    dynamics: float | None
    reward: float | None
    state: float
    outside: float
    ratio: float | None


class LogModel:
    """Models of dynamics and of rewards, and the rows that new ones are compared with.

    A half of the log's episodes fits the models, a quarter are the neighbors, whose losses are
    those of rows that the models have not seen; the last quarter stays out, for calibration.

    Args:
        transitions: The log, raw.
        scaling: What the policy was trained with.
        n_actions: Number of discrete actions; None for Box actions.
        updates: Gradient updates of each model.
        seed: Of the split and the models.
        progress: Told what is done and the share of it.
    """

    def __init__(
        self,
        transitions: Transitions,
        scaling: Scaling,
        n_actions: int | None,
        updates: int = 2000,
        seed: int = 0,
        progress: Callable[[str, float], None] | None = None,
    ) -> None:
        n = transitions.n_episodes
        if n < LEAST_EPISODES:
            raise InputError(
                f"The log has {n} episodes: a monitor needs {LEAST_EPISODES} or more to fit, to "
                "compare with and to calibrate on."
            )
        self.scaling, self.n_actions = scaling, n_actions
        order = np.random.default_rng(seed).permutation(n)
        fitted = self.view(transitions.select_episodes(np.sort(order[: n // 2])))
        self.held_out = transitions.select_episodes(np.sort(order[3 * n // 4 :]))
        """The quarter of the episodes that nothing was fitted to."""
        tell = progress or (lambda stage, share: None)
        self.dynamics = self._fit("dynamics model", _moves(fitted), updates, seed, tell)
        low, high = float(transitions.reward.min()), float(transitions.reward.max())
        self._constant = low if low == high else None  # its likelihood would have no bound
        self.rewards = self._fit("reward model", _pays(fitted), updates, seed, tell)
        self._compare(transitions.select_episodes(np.sort(order[n // 2 : 3 * n // 4])), seed)

    def view(self, transitions: Transitions) -> LoggedData:
        """Transitions as the models see them."""
        return logged_data(transitions, self.scaling, self.n_actions)

    def scores(self, episode: Transitions) -> EpisodeScores:
        """Score one episode."""
        data = self.view(episode)
        distance, near = self._pairs.query(_pair(data), k=self._k)  # (T, k) both
        supported = distance.reshape(len(data), -1).mean(1) <= self._radius
        near = near.reshape(len(data), -1)
        enough = supported.mean() > LEAST_SHARE
        dynamics, rewards = (
            np.minimum(loss, cap) - known[near].mean(1)
            for loss, cap, known in zip(self._ask(data), self._caps, self._known, strict=True)
        )  # (T,) both
        expected = self._reward[near].mean(1)[supported]
        square = float(expected @ expected)
        return EpisodeScores(
            float(dynamics[supported].mean()) if enough else None,
            float(rewards[supported].mean()) if enough else None,
            float(self.state_distances(data).mean()),
            float(1 - supported.mean()),
            float(expected @ episode.reward[supported]) / square if square > 0 else None,
        )

    def state_distances(self, data: LoggedData) -> Array:
        """Mean distance of each observation to the log's nearest ones, (N,)."""
        distance, _ = self._states.query(data.obs.numpy(), k=self._k)
        mean: Array = np.reshape(distance, (len(data), -1)).mean(1)
        return mean

    def _fit(
        self,
        stage: str,
        data: LoggedData,
        updates: int,
        seed: int,
        tell: Callable[[str, float], None],
    ) -> DynamicsEnsemble:
        def done(update: int) -> None:
            tell(stage, update / updates)

        return fit_dynamics(data, updates, 5, 3, seed, hidden=(128, 128), progress=done)

    def _compare(self, transitions: Transitions, seed: int) -> None:
        """Keep rows of unseen episodes, their losses, and how far their like is from them."""
        data = self.view(transitions)
        rows = np.sort(np.random.default_rng(seed).permutation(len(data))[:MAX_ROWS])
        self._k = min(NEIGHBORS, len(rows))
        self._pairs = cKDTree(_pair(data)[rows])
        self._states = cKDTree(data.obs.numpy()[rows])
        losses = self._ask(data)  # (N,) both
        self._caps = [max(float(np.quantile(loss, CAP)), LEAST_CAP) for loss in losses]
        self._known = [
            np.minimum(loss, cap)[rows] for loss, cap in zip(losses, self._caps, strict=True)
        ]
        self._reward = transitions.reward.astype(np.float64)[rows]
        own = self.view(self.held_out)
        distance, _ = self._pairs.query(_pair(own), k=self._k)
        self._radius = float(np.quantile(distance.reshape(len(own), -1).mean(1), WITHIN))

    def _ask(self, data: LoggedData) -> tuple[Array, Array]:
        """Losses of next observations and ends, and of rewards, (N,) both."""
        if self._constant is None:
            return _losses(self.dynamics, _moves(data)), _losses(self.rewards, _pays(data))
        off = (data.reward - self._constant).abs() / max(abs(self._constant), 1.0)
        return _losses(self.dynamics, _moves(data)), np.asarray(off.double().numpy())


def _moves(data: LoggedData) -> LoggedData:
    """The data without rewards: a model of them judges next observations and ends alone."""
    return replace(data, reward=torch.zeros_like(data.reward))


def _pays(data: LoggedData) -> LoggedData:
    """The data as a task of one state (s, s', end): a model of them judges rewards alone.

    Given where a step led, its reward does not depend on the dynamics.
    """
    whole = torch.cat([data.obs, data.next_obs, data.terminated[:, None]], 1)  # (N, 2 O + 1)
    none = torch.zeros_like(data.terminated)
    return replace(data, obs=whole, next_obs=whole, terminated=none)


def _losses(model: DynamicsEnsemble, data: LoggedData) -> Array:
    """Negative log-likelihood of each row under the mixture of the elites, in nats, (N,)."""
    columns = data.obs, data.action, data.reward, data.next_obs, data.terminated
    nll = in_chunks(lambda *c: model.nll(Batch(*c))[model.elites], *columns)  # (K, N)
    return np.asarray(-torch.logsumexp(-nll.double(), 0).numpy() + np.log(len(nll)))


def _pair(data: LoggedData) -> Array:
    """Observation and action as one point, (N, O + A); another discrete action is far away."""
    return np.asarray(torch.cat([data.obs, _point(data.action, data.n_actions)], 1).numpy())


def _point(action: Tensor, n_actions: int | None) -> Tensor:
    return action if n_actions is None else 10 * F.one_hot(action, n_actions).float()
