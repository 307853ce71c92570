from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from lit_offrl.data import DatasetSpec
from lit_offrl.errors import EnvironmentFailed, InputError
from lit_offrl.evaluation import evaluate, normalized_score, rollout
from tests.evaluation.fakes import spec_of, spec_of_env
from tests.online.toys import line_id, line_spec


class Countdown(gym.Env[Any, Any]):
    """Ends after 1 to 9 steps, as the seed has it; counts the steps of all instances."""

    observation_space = spaces.Box(0, 10, (1,))
    action_space = spaces.Discrete(2, start=4)
    steps: ClassVar[int] = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.left = int(self.np_random.integers(1, 10))
        return np.array([self.left], np.float32), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.left > 0
        Countdown.steps += 1
        self.left -= 1
        return np.array([self.left], np.float32), float(action), self.left == 0, False, {}


@pytest.fixture
def countdown() -> DatasetSpec:
    if "CountdownTest-v0" not in gym.registry:
        gym.register("CountdownTest-v0", lambda **_: Countdown())
    Countdown.steps = 0
    return spec_of(Countdown.observation_space, Countdown.action_space)


def balance(obs: NDArray[np.float32]) -> NDArray[np.int64]:
    return (obs[:, 2] + obs[:, 3] > 0).astype(np.int64)


@pytest.mark.parametrize("num_envs", [1, 2, 3, None])
def test_episode_i_is_the_one_of_seed_plus_i_whatever_the_number_of_environments(
    num_envs: int | None,
) -> None:
    spec = spec_of_env("CartPole-v1", max_episode_steps=150)
    found = evaluate(balance, spec, episodes=5, seed=3, num_envs=num_envs)

    env = gym.make("CartPole-v1", max_episode_steps=150)
    expected = []
    for i in range(5):
        obs, _ = env.reset(seed=3 + i)
        total, done = 0.0, False
        while not done:
            obs, reward, terminated, truncated, _ = env.step(int(balance(obs[None])[0]))
            total += float(reward)
            done = terminated or truncated
        expected.append(total)
    assert found.returns.tolist() == expected
    assert found.lengths.tolist() == expected
    assert found.mean == np.mean(expected)
    assert found.std == np.std(expected, ddof=1)


@pytest.mark.parametrize("num_envs", [1, 4, 20])
def test_no_environment_is_stepped_after_its_last_episode(
    countdown: DatasetSpec, num_envs: int
) -> None:
    def policy(obs: Any) -> Any:
        return np.full(len(obs), 5)

    found = evaluate(policy, countdown, 20, 0, num_envs, "CountdownTest-v0")
    assert Countdown.steps == found.lengths.sum()
    assert (found.returns == 5 * found.lengths).all()
    assert len(set(found.lengths.tolist())) > 3


def test_a_random_policy_is_reproducible_and_leaves_the_callers_generator_alone(
    countdown: DatasetSpec,
) -> None:
    def policy(obs: Any) -> Any:
        return torch.randint(4, 6, (len(obs),)).numpy()

    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = evaluate(policy, countdown, 6, 0, 3, "CountdownTest-v0")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert evaluate(policy, countdown, 6, 0, 3, "CountdownTest-v0").returns.tolist() == (
        first.returns.tolist()
    )


def test_an_episode_without_end_is_an_input_error(
    countdown: DatasetSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "MAX_STEPS", 2)
    with pytest.raises(InputError, match="has not ended after 2 steps"):
        evaluate(lambda obs: np.full(len(obs), 4), countdown, 20, env_id="CountdownTest-v0")


def test_counts_below_one_are_input_errors(countdown: DatasetSpec) -> None:
    with pytest.raises(InputError, match="`episodes`"):
        evaluate(balance, countdown, episodes=0)
    with pytest.raises(InputError, match="`num_envs`"):
        evaluate(balance, countdown, num_envs=0)


def test_a_score_needs_both_references() -> None:
    box, two = spaces.Box(-1, 1, (1,)), spaces.Discrete(2)
    assert normalized_score(spec_of(box, two, ref_min_score=-10.0, ref_max_score=30.0), 10) == 50
    assert normalized_score(spec_of(box, two, ref_min_score=-10.0), 10) is None
    assert normalized_score(spec_of(box, two, ref_min_score=1.0, ref_max_score=1.0), 10) is None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", "NaN or infinity"),
        ("nan_reward", "NaN or infinity"),
        ("nan_start", "step 0 of an episode .*NaN or infinity"),
        ("hang", "no answer for 0.2 s"),
    ],
)
def test_an_environment_that_fails_is_named(fault: str, message: str) -> None:
    def still(obs: Any) -> Any:
        return np.zeros((len(obs), 1), np.float32)

    with pytest.raises(EnvironmentFailed, match=message):
        evaluate(still, line_spec(), 1, env_id=line_id(fault), timeout=0.2)
