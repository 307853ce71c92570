import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lit_offrl.algorithms import BC, BCQ, DQN, IQL, TD3BC
from lit_offrl.batch import Batch
from lit_offrl.data import OfflineDataModule
from lit_offrl.data.builtin import gridworld
from lit_offrl.errors import InputError
from lit_offrl.evaluation import RawPolicy, play
from lit_offrl.evaluation.diagnosis.gap import episode_spread
from lit_offrl.evaluation.estimate import Estimate
from lit_offrl_callbacks.offline_online_gap import OfflineOnlineGap
from tests.callbacks.training import data_module, fit
from tests.callbacks.two_ranks import run_on_two_ranks

SMALL: dict[str, Any] = {"obs_dim": 3, "action_dim": 1, "hidden": (8,)}
pytestmark = pytest.mark.filterwarnings("ignore:You passed in a `val_dataloader`")


@pytest.fixture(scope="module")
def grid(minari_folder: None) -> str:
    if gridworld.DATASET_ID not in minari.list_local_datasets():  # the folder is the package's
        gridworld.make(scale=0.05)
    return gridworld.DATASET_ID


class Claims(LightningModule):
    """Someone's own module: acts on its own and claims a value for each observation."""

    def __init__(
        self, value: Callable[[Tensor], Tensor], discount: float = 0.9, noise: float = 0.0
    ) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)
        self.value, self.discount, self.noise = value, discount, noise

    def act(self, obs: Tensor) -> Tensor:
        mean: Tensor = self.net(obs)
        return (mean + self.noise * torch.randn_like(mean)).clamp(-1, 1)

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        value = self.value(obs)
        return torch.stack([value + 1, value])  # the smaller one counts

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        row = batch.at(0)
        loss: Tensor = (self.net(row.obs) - row.action).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def train(
    algorithm: LightningModule, data: OfflineDataModule, *callbacks: Callback, steps: int = 3
) -> dict[str, float]:
    """Trains, and returns what was logged."""
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(algorithm, data)
    return {key: value.item() for key, value in trainer.callback_metrics.items()}


def constant(value: float) -> Callable[[Tensor], Tensor]:
    return lambda obs: obs.new_full((len(obs),), value)


def scaled(scale: float, shift: float) -> OfflineDataModule:
    """The pendulum set in episodes of 5 and 195 steps, with a reward transform."""
    data = data_module()
    transitions, spec = data._loaded
    step = np.arange(len(transitions)) % 200
    transitions = replace(
        transitions,
        episode=np.cumsum((step == 0) | (step == 5)) - 1,
        truncated=(step == 4) | (step == 199),
    )
    data.__dict__["_loaded"] = transitions, spec
    data.reward_scale, data.reward_shift = scale, shift
    return data


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.5, 3.0)])
def test_the_gap_is_that_of_episodes_scored_alike(scale: float, shift: float) -> None:
    data, gap = scaled(scale, shift), OfflineOnlineGap(episodes=20, num_envs=7)
    algorithm = Claims(constant(-30.0 * scale))
    logged = train(algorithm, data, gap)

    policy = RawPolicy(algorithm, data.spec, data.scaling)
    rollouts = play(policy, data.spec, range(10_000, 10_020))
    returns = rollouts.discounted(0.9, shift / scale)
    logged_returns = data.train.mc_returns(0.9)[data.train.episode_bounds[:-1]]
    length = np.diff(data.train.episode_bounds)
    shifted = logged_returns + shift / scale * (1 - 0.9**length) / 0.1
    low, high = np.quantile(shifted, [0.05, 0.95])
    expected = (-30.0 - returns.mean()) / max(abs(returns.mean()), high - low)
    found = gap.findings["gap_critic"]
    assert found.value == pytest.approx(expected, rel=1e-4)
    assert logged["gap/critic"] == pytest.approx(expected, rel=1e-4)
    assert found.interval is not None and found.interval[0] < expected < found.interval[1]
    assert (gap.episodes_spent, logged["verdict/gap_reward_range"]) == (20, 0)


def promise(offset: float, data: OfflineDataModule) -> OfflineOnlineGap:
    """Claims what the episodes return, and so much of it more."""
    algorithm = Claims(constant(0.0))
    gap = OfflineOnlineGap(episodes=30)
    train(algorithm, data, gap)
    policy = RawPolicy(algorithm, data.spec, data.scaling)
    online = play(policy, data.spec, range(10_000, 10_030)).discounted(0.9).mean()
    spread = episode_spread(data.train, 0.9)
    algorithm.value = constant(online + offset * max(abs(online), spread))
    gap = OfflineOnlineGap(episodes=30)
    train(algorithm, data, gap, steps=1)
    return gap


@pytest.mark.parametrize(
    ("offset", "verdict", "word"), [(0.9, "fail", "OPTIMISTIC"), (-0.9, "watch", "PESSIMISTIC")]
)
def test_a_critic_that_promises_too_much_is_optimistic(
    offset: float, verdict: str, word: str
) -> None:
    found = promise(offset, data_module()).findings["gap_critic"]
    assert found.verdict == verdict
    assert found.meaning.startswith(word)


def test_time_behind_the_limit_is_valued_by_the_critic() -> None:
    """γ^30 = 0.74: most of the weight lies behind the 30 steps of an episode."""
    data, gap = data_module(), OfflineOnlineGap(episodes=5)
    algorithm = Claims(constant(-300.0), discount=0.99)
    train(algorithm, data, gap)
    policy = RawPolicy(algorithm, data.spec, data.scaling)
    rollouts = play(policy, data.spec, range(10_000, 10_005))
    online = np.mean([r[:-1] @ 0.99 ** np.arange(29) + 0.99**29 * -300.0 for r in rollouts.rewards])
    found = gap.findings["gap_critic"]
    assert f"return {online:.4g}" in found.meaning
    assert "limit of 30 steps weighs 74%" in found.meaning
    assert "too narrow" in found.meaning  # 5 episodes


@pytest.mark.parametrize(
    "make", [partial(IQL, **SMALL), partial(TD3BC, **SMALL), partial(BCQ, **SMALL, vae_hidden=(8,))]
)
def test_algorithms_with_a_critic_are_compared(make: Any) -> None:
    gap = OfflineOnlineGap(episodes=4)
    logged = train(make(), data_module(), gap)
    assert gap.findings["gap_critic"].value == pytest.approx(logged["gap/critic"])
    assert math.isfinite(logged["gap/critic"])


def test_an_algorithm_without_a_critic_is_told_so_and_its_estimate_compared() -> None:
    gap = OfflineOnlineGap(episodes=20)
    gap.off_policy = Estimate("FQE", "FQE", 1000.0, std_error=1.0)
    data = scaled(0.5, 3.0)  # estimates are in raw reward all the same
    algorithm = BC(**SMALL, discount=0.9)
    logged = train(algorithm, data, gap)
    assert gap.findings["gap_critic"].verdict == "not applicable"
    assert "no critic" in gap.findings["gap_critic"].meaning
    assert "gap/critic" not in logged
    found = gap.findings["gap_ope"]
    assert found.verdict == "fail"
    assert found.value == pytest.approx(logged["gap/ope"])
    policy = RawPolicy(algorithm, data.spec, data.scaling)
    online = play(policy, data.spec, range(10_000, 10_020)).discounted(0.9).mean()
    assert f"return {online:.4g}" in found.meaning
    spread = episode_spread(data.train, 0.9)
    assert found.value == pytest.approx((1000 - online) / max(abs(online), spread), rel=1e-4)
    assert "cql_alpha" not in found.advice and "support" in found.advice


def test_discrete_actions_and_episodes_that_end_are_compared(grid: str) -> None:
    data = OfflineDataModule(grid, batch_size=16, updates_per_epoch=10)
    algorithm = DQN(data.obs_dim, data.action_dim, hidden=(8,), discount=0.95)
    gap = OfflineOnlineGap(episodes=20)
    train(algorithm, data, gap)
    assert gap.findings["gap_reward_range"].verdict == "ok"
    assert gap.findings["gap_critic"].value is not None


@pytest.mark.parametrize("make", [partial(BC, **SMALL), partial(IQL, **SMALL)])
def test_without_episodes_no_environment_is_made(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("an environment was made")

    monkeypatch.setattr(gym, "make", refuse)
    gap = OfflineOnlineGap(episodes=0)
    train(make(), data_module(), gap)
    assert set(gap.findings) == {"gap_critic"}
    assert gap.findings["gap_critic"].verdict == "not applicable"
    assert "`episodes` is 0" in gap.findings["gap_critic"].meaning
    assert gap.episodes_spent == 0


def test_without_a_recorded_environment_the_promise_alone_is_reported() -> None:
    gap = OfflineOnlineGap()
    train(Claims(constant(-7.0)), data_module(env_spec=None), gap)
    found = gap.findings["gap_critic"]
    assert (found.verdict, found.value) == ("not applicable", None)
    assert "promises -7 ± 0" in found.meaning and "name one in `env_id`" in found.meaning
    named = OfflineOnlineGap(episodes=2, env_id="Pendulum-v1")
    train(Claims(constant(-7.0)), data_module(env_spec=None), named)
    assert named.episodes_spent == 2


class Rescaled(gym.RewardWrapper[Any, Any]):
    """Pays another currency."""

    def reward(self, reward: Any) -> float:
        return 1000.0 + float(reward)


def test_an_environment_that_pays_by_another_rule_withdraws_the_gap() -> None:
    def make(**options: Any) -> gym.Env[Any, Any]:
        return Rescaled(gym.make("Pendulum-v1"))

    gym.register("tests/Rescaled-v0", make, max_episode_steps=30)
    try:
        gap = OfflineOnlineGap(episodes=2, env_id="tests/Rescaled-v0")
        gap.off_policy = Estimate("FQE", "FQE", 1.0, std_error=1.0)
        train(Claims(constant(-7.0)), data_module(), gap)
    finally:
        gym.registry.pop("tests/Rescaled-v0")
    assert gap.findings["gap_reward_range"].verdict == "fail"
    assert gap.findings["gap_critic"].verdict == "not applicable"
    assert gap.findings["gap_ope"].verdict == "not applicable"


@pytest.mark.parametrize("held_out", [0.25, 0.0])
def test_episodes_are_played_at_the_end_unless_asked_for_more_often(held_out: float) -> None:
    at_end, often = OfflineOnlineGap(episodes=2), OfflineOnlineGap(episodes=2, every_n_epochs=2)
    for gap in (at_end, often):
        fit(data_module(held_out), gap, steps=45)
    assert [point["update"] for point in at_end.history] == [45]
    assert [point["update"] for point in often.history] == [20, 40, 45]
    assert (at_end.episodes_spent, often.episodes_spent) == (2, 6)


@pytest.mark.parametrize(
    "make", [partial(Claims, constant(1.0), noise=0.5), partial(BCQ, **SMALL, vae_hidden=(8,))]
)
def test_comparing_does_not_change_what_is_trained(make: Any) -> None:
    weights = []
    for callbacks in ([], [OfflineOnlineGap(episodes=2, every_n_epochs=1)]):
        torch.manual_seed(0)
        algorithm = make()
        train(algorithm, data_module(), *callbacks, steps=25)
        weights.append({**algorithm.state_dict(), "drawn": torch.rand(1)})
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_spent_episodes_outlive_an_interruption(tmp_path: Path) -> None:
    first, second = (OfflineOnlineGap(episodes=2, every_n_epochs=1) for _ in range(2))
    fit(data_module(), first, ModelCheckpoint(tmp_path, "{step}"), steps=10)
    path = tmp_path / "step=10.ckpt"
    fit(data_module(), second, ModelCheckpoint(tmp_path, "{step}"), steps=20, path=path)
    assert (first.episodes_spent, second.episodes_spent) == (2, 4)
    assert [point["update"] for point in second.history] == [10, 20]
    again = OfflineOnlineGap()
    again.load_state_dict(json.loads(json.dumps(second.state_dict())))
    assert (again.episodes_spent, again.findings) == (4, second.findings)


def test_wrong_settings_are_input_errors() -> None:
    for episodes in (-1, 1):
        with pytest.raises(InputError, match="0 or above 1"):
            OfflineOnlineGap(episodes=episodes)
    wrong: list[dict[str, Any]] = [{"starts": 0}, {"num_envs": 0}, {"every_n_epochs": -1}]
    for options in wrong:
        with pytest.raises(InputError, match="at least 1"):
            OfflineOnlineGap(**options)
    with pytest.raises(InputError, match="OfflineDataModule"):
        OfflineOnlineGap().setup(Trainer(accelerator="cpu", logger=False), BC(**SMALL), "fit")
    with pytest.raises(InputError, match="cannot be made"):
        train(BC(**SMALL), data_module(env_spec='{"id": "Nothing-v0"}'), OfflineOnlineGap())
    nameless = Claims(constant(1.0))
    del nameless.discount
    with pytest.raises(InputError, match="no `discount`"):
        train(nameless, data_module(), OfflineOnlineGap())


@pytest.mark.slow
def test_two_ranks_share_the_episodes_and_find_what_one_does(tmp_path: Path) -> None:
    one, two = run_on_two_ranks("gap", tmp_path)
    assert one.keys() == {"gap_reward_range", "gap_critic"}
    for found in two:
        assert found["gap_critic"]["verdict"] == one["gap_critic"]["verdict"]
        for part in ("value", "interval"):  # the float32 policy plays other batches
            expected = pytest.approx(one["gap_critic"][part], rel=1e-5)
            assert found["gap_critic"][part] == expected
