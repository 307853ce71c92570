"""What the log's models say of single episodes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from lit_offrl.data import Transitions
from lit_offrl.data.builtin.cartpole import controller
from lit_offrl.errors import InputError
from lit_offrl.online.monitor.deployment import MARGIN
from lit_offrl.online.monitor.reference import (
    CORE,
    NEIGHBORS,
    WITHIN,
    EpisodeScores,
    LogModel,
    _pair,
)
from tests.evaluation.fakes import identity_scaling
from tests.online.monitor import worlds


@pytest.fixture(scope="module")
def model() -> LogModel:
    log = worlds.chain(200, 0, right=0.6)
    return LogModel(log, identity_scaling(worlds.chain_spec()), 2, updates=300)


def mean_of(model: LogModel, seed: int, factor: float = 1.0, slip: float = 0.1) -> EpisodeScores:
    episodes = worlds.episodes_of(worlds.scaled(worlds.chain(40, seed, 0.9, slip), factor))
    scores = [list(vars(model.scores(one)).values()) for one in episodes]
    return EpisodeScores(*np.mean(scores, 0))


def test_dynamics_and_rewards_are_told_apart(model: LogModel) -> None:
    usual, slips = mean_of(model, 1), mean_of(model, 1, slip=0.4)
    paid = mean_of(model, 1, factor=2.0)
    assert usual.dynamics is not None and usual.reward is not None
    assert slips.dynamics is not None and slips.reward is not None
    assert paid.reward is not None
    assert slips.dynamics > usual.dynamics + 0.3
    assert abs(slips.reward - usual.reward) < 0.1
    assert paid.reward > usual.reward + 0.5
    assert paid.dynamics == usual.dynamics
    assert paid.ratio == pytest.approx(2 * (usual.ratio or 0))


def test_another_policy_leaves_dynamics_and_rewards_as_they_are(model: LogModel) -> None:
    both = []
    for right in (0.6, 0.9):
        scores = [model.scores(e) for e in worlds.episodes_of(worlds.chain(150, 3, right))]
        both.append([(s.dynamics or 0.0, s.reward or 0.0) for s in scores])
    error = np.std(both[0], 0) / 150**0.5
    assert (np.abs(np.mean(both[0], 0) - np.mean(both[1], 0)) < 4 * error + 0.02).all()


def test_what_is_not_in_the_log_is_not_judged(model: LogModel) -> None:
    (episode,) = worlds.episodes_of(worlds.chain(1, 0, 0.9))
    far = model.scores(replace(episode, obs=episode.obs + 5, next_obs=episode.next_obs + 5))
    assert far.dynamics is None and far.reward is None and far.ratio is None
    assert far.outside == 1
    assert far.state > 5


def test_without_accepted_episodes_small_errors_and_the_rim_are_not_judged() -> None:
    spec = worlds.cartpole_spec()
    log = worlds.cartpole(40, 0, controller(epsilon=0.4))
    scaling = worlds.standard(log, spec)
    plain, careful = (
        LogModel(log, scaling, 2, updates=300, calibrated=known) for known in (True, False)
    )
    (episode,) = worlds.episodes_of(worlds.cartpole(1, 10_000))
    step = (log.next_obs - log.obs).std(0)
    excess = {}
    for share in (0.02, 0.5):  # of the log's spread, as errors of the models
        moved = replace(episode, next_obs=episode.next_obs + share * step)
        for model in (plain, careful):
            usual, strange = (model.scores(one).dynamics for one in (episode, moved))
            assert usual is not None and strange is not None
            excess[model, share] = strange - usual
    assert excess[careful, 0.02] < MARGIN < excess[plain, 0.02]
    assert excess[careful, 0.5] > 1

    known = careful.held_out
    distance = careful._pairs.query(_pair(careful.view(known)), k=NEIGHBORS)[0].mean(1)
    rim = np.flatnonzero((distance > careful._radius[CORE]) & (distance <= careful._radius[WITHIN]))
    assert len(rim) / len(known) == pytest.approx(WITHIN - CORE, abs=0.01)
    columns: list[Any] = [known.obs, known.action, known.reward, known.next_obs]
    flags: list[Any] = [np.zeros(len(rim), kind) for kind in (np.bool_, np.bool_, np.int64)]
    (far,) = worlds.episodes_of(Transitions(*(column[rim] for column in columns), *flags))
    assert (careful.scores(far).dynamics, careful.scores(far).outside) == (None, 0)
    assert plain.scores(far).dynamics is not None


def test_a_constant_reward_has_no_likelihood_but_a_difference() -> None:
    spec = worlds.cartpole_spec()
    log = worlds.cartpole(12, 0, controller(epsilon=0.5))
    model = LogModel(log, worlds.standard(log, spec), 2, updates=20)
    (episode,) = worlds.episodes_of(worlds.cartpole(1, 99))
    assert model.scores(episode).reward == 0
    assert model.scores(worlds.scaled(episode, 3)).reward == 2


def test_the_held_out_quarter_has_no_part_in_the_models() -> None:
    log = worlds.chain(40, 0, right=0.6)
    scaling = identity_scaling(worlds.chain_spec())
    model = LogModel(log, scaling, 2, updates=20)
    assert model.held_out.n_episodes == 10
    assert sum(len(part) for part in worlds.episodes_of(model.held_out)) == len(model.held_out)


def test_a_log_of_few_episodes_is_refused() -> None:
    with pytest.raises(InputError, match="7 episodes: a monitor needs 8"):
        LogModel(worlds.chain(7, 0, 0.6), identity_scaling(worlds.chain_spec()), 2, updates=20)
