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
CORE = 0.7
"""The same of its core. A policy meets the rim in other ways than the log does, and models err."""
NOISE = 0.1
"""Standard deviation of steps and rewards, in the log's, that may be an error of the models."""
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
            over the rows that are judged; None if there are too few of these.
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
        calibrated: Whether scores are compared with those of the same policy's episodes, in which
            the models err alike. Else rows are judged in the log's core alone, and what may be an
            error of the models is none of the world.
    """

    def __init__(
        self,
        transitions: Transitions,
        scaling: Scaling,
        n_actions: int | None,
        updates: int = 2000,
        seed: int = 0,
        progress: Callable[[str, float], None] | None = None,
        calibrated: bool = True,
    ) -> None:
        n = transitions.n_episodes
        if n < LEAST_EPISODES:
            raise InputError(
                f"The log has {n} episodes: a monitor needs {LEAST_EPISODES} or more to fit, to "
                "compare with and to calibrate on."
            )
        self.scaling, self.n_actions = scaling, n_actions
        self._judged, self._noise = (WITHIN, 0.0) if calibrated else (CORE, NOISE)
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
        distance, near = distance.reshape(len(data), -1).mean(1), near.reshape(len(data), -1)
        judged = distance <= self._radius[self._judged]
        enough = judged.mean() > LEAST_SHARE
        dynamics, rewards = (
            np.minimum(loss, cap) - known[near].mean(1)
            for loss, cap, known in zip(self._ask(data), self._caps, self._known, strict=True)
        )  # (T,) both
        expected = self._reward[near].mean(1)[judged]
        square = float(expected @ expected)
        return EpisodeScores(
            float(dynamics[judged].mean()) if enough else None,
            float(rewards[judged].mean()) if enough else None,
            float(self.state_distances(data).mean()),
            float(np.mean(distance > self._radius[WITHIN])),
            float(expected @ episode.reward[judged]) / square if square > 0 else None,
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
        distance = distance.reshape(len(own), -1).mean(1)
        self._radius = {share: float(np.quantile(distance, share)) for share in (CORE, WITHIN)}

    def _ask(self, data: LoggedData) -> tuple[Array, Array]:
        """Losses of next observations and ends, and of rewards, (N,) both."""
        dynamics = _losses(self.dynamics, _moves(data), self._noise)
        if self._constant is None:
            return dynamics, _losses(self.rewards, _pays(data), self._noise)
        off = (data.reward - self._constant).abs() / max(abs(self._constant), 1.0)
        return dynamics, np.asarray(off.double().numpy())


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


def _losses(model: DynamicsEnsemble, data: LoggedData, noise: float) -> Array:
    """Negative log-likelihood of each row under the mixture of the elites, in nats, (N,)."""
    columns = data.obs, data.action, data.reward, data.next_obs, data.terminated
    nll = in_chunks(lambda *c: model.nll(Batch(*c), noise)[model.elites], *columns)  # (K, N)
    return np.asarray(-torch.logsumexp(-nll.double(), 0).numpy() + np.log(len(nll)))


def _pair(data: LoggedData) -> Array:
    """Observation and action as one point, (N, O + A); another discrete action is far away."""
    return np.asarray(torch.cat([data.obs, _point(data.action, data.n_actions)], 1).numpy())


def _point(action: Tensor, n_actions: int | None) -> Tensor:
    return action if n_actions is None else 10 * F.one_hot(action, n_actions).float()
