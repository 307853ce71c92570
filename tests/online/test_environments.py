import numpy as np
import pytest

from lit_offrl.errors import EnvironmentFailed, InputError
from lit_offrl.online.environments import Environments, Step
from tests.online.toys import line_id, line_spec


def environments(
    fault: str = "", count: int = 2, seed: int = 0, timeout: float = 60
) -> Environments:
    envs = Environments(line_spec(), line_id(fault), count, seed, timeout)
    envs.start()
    return envs


def push(envs: Environments, *actions: float) -> Step:
    return envs.step(np.array(actions, np.float32).reshape(-1, 1))


def test_a_step_keeps_the_true_next_observation_where_an_episode_ends() -> None:
    envs = environments()
    start = envs.obs.copy()
    push(envs, 2, 0)
    push(envs, 2, 0)
    step = push(envs, 2, 0)  # the first, which started in [-1, 1], passes 5
    assert step.terminated.tolist() == [True, False]
    np.testing.assert_allclose(step.next_obs[:, 0], start[:, 0] + [6, 0], rtol=1e-6)
    np.testing.assert_allclose(step.obs[:, 1], [2, 2])
    assert envs.obs[0, 1] == 0 and envs.obs[1, 1] == 3  # the first has begun anew
    assert envs.started == 3


def test_nan_at_the_start_of_an_episode_is_a_failure() -> None:
    with pytest.raises(EnvironmentFailed, match="NaN or infinity"):
        environments("nan_start")


def test_another_number_of_environments_is_refused() -> None:
    state = environments(count=2).state_dict()
    with pytest.raises(InputError, match="resume with `--num_envs 2`"):
        Environments(line_spec(), line_id(), 3, 0).load_state_dict(state)


def test_time_limits_are_kept_apart_from_ends() -> None:
    envs = environments(count=1)
    for _ in range(3):
        assert not push(envs, 0).truncated.any()
    step = push(envs, 0)
    assert step.truncated.tolist() == [True] and step.terminated.tolist() == [False]
    assert step.next_obs[0, 1] == 4 and envs.obs[0, 1] == 0


def test_episodes_start_from_seeds_of_run_and_number() -> None:
    one, same, other = environments(), environments(), environments(seed=1)
    np.testing.assert_array_equal(one.obs, same.obs)
    assert not np.array_equal(one.obs, other.obs)
    assert one.obs[0, 0] != one.obs[1, 0]
    # the third episode is the same, whichever environment plays it
    alone = environments(count=1)
    for _ in range(8):
        push(alone, 0)
    for _ in range(3):
        push(one, 0, 0)
    third = {float(x) for x in push_all(one)}
    assert float(alone.obs[0, 0]) in third


def push_all(envs: Environments) -> list[float]:
    push(envs, 0, 0)
    return [float(x) for x in envs.obs[:, 0]]


def test_what_was_cut_is_played_anew() -> None:
    envs = environments()
    for action in (0.5, 1.0, -0.25, 0.125, 1.5, 0.75):
        push(envs, action, -action)
    again = Environments(line_spec(), line_id(), 2, 0)
    assert again.load_state_dict(envs.state_dict())
    np.testing.assert_array_equal(again.obs, envs.obs)
    one, other = push(envs, 1, 1), push(again, 1, 1)
    for name in ("obs", "reward", "next_obs", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert again.started == envs.started


def test_an_environment_that_does_not_repeat_itself_is_noticed() -> None:
    envs = environments("drift")
    push(envs, 0, 0)
    again = Environments(line_spec(), line_id("drift"), 2, 0)
    assert not again.load_state_dict(envs.state_dict())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("raise", r"RuntimeError: the arm is stuck"),
        ("nan", "NaN or infinity"),
        ("nan_reward", "NaN or infinity"),
        ("hang", "TimeoutError: no answer for 0.2 s"),
    ],
)
def test_a_failure_is_one_sentence(fault: str, reason: str) -> None:
    envs = environments(fault, timeout=0.2)
    push(envs, 0, 0)
    with pytest.raises(EnvironmentFailed, match=reason) as caught:
        push(envs, 0, 0)
    assert "at step 1 of an episode" in str(caught.value) and "\n" not in str(caught.value)


def test_after_a_failure_other_episodes_begin() -> None:
    envs = environments("raise")
    push(envs, 0, 0)
    with pytest.raises(EnvironmentFailed):
        push(envs, 0, 0)
    envs.abandon()
    again = Environments(line_spec(), line_id("raise"), 2, 0)
    assert again.load_state_dict(envs.state_dict())
    assert again.started == 4 and (again.obs[:, 1] == 0).all()
    assert not np.array_equal(again.obs[:, 0], environments().obs[:, 0])
