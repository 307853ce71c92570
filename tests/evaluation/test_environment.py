import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import ClipReward, FrameStackObservation
from minari.serialization import serialize_space

from lit_offrl.data import DatasetSpec
from lit_offrl.errors import InputError
from lit_offrl.evaluation import make_env
from tests.evaluation.fakes import spec_of, spec_of_env


@pytest.fixture
def pendulum() -> DatasetSpec:
    return spec_of_env("Pendulum-v1", g=5.0, max_episode_steps=7)


def changed(spec: DatasetSpec, **fields: Any) -> DatasetSpec:
    assert spec.env_spec is not None
    return replace(spec, env_spec=json.dumps({**json.loads(spec.env_spec), **fields}))


def test_arguments_and_time_limit_are_the_recorded_ones(pendulum: DatasetSpec) -> None:
    env = make_env(pendulum)
    env.reset(seed=0)
    ends = [env.step(np.zeros(1, np.float32))[3] for _ in range(7)]

    assert ends == [False] * 6 + [True]
    assert env.unwrapped.g == 5.0  # type: ignore[attr-defined]


def test_code_that_a_data_set_names_is_not_imported(
    pendulum: DatasetSpec, caplog: pytest.LogCaptureFixture
) -> None:
    wrapper = {"name": "Evil", "entry_point": "no_such_module:Evil", "kwargs": {}}
    spec = changed(pendulum, entry_point="no_such_module:Evil", additional_wrappers=[wrapper])
    with caplog.at_level(logging.WARNING):
        make_env(spec).close()
    assert "wrappers that are not applied here (Evil)" in caplog.text

    with pytest.raises(InputError, match="would import code"):
        make_env(changed(pendulum, id="no_such_module:Pendulum-v1"))


def test_wrappers_of_gymnasium_are_applied_as_they_were_recorded(pendulum: DatasetSpec) -> None:
    env = FrameStackObservation(gym.make("Pendulum-v1"), 3)
    clipped = ClipReward(env, -1.0, 0.0)
    assert clipped.spec is not None
    wrappers = json.loads(clipped.spec.to_json())["additional_wrappers"]
    stack = replace(
        changed(pendulum, additional_wrappers=wrappers),
        obs_space=serialize_space(env.observation_space),
    )
    made = make_env(stack)
    obs, _ = made.reset(seed=0)
    assert obs.shape == (3, 3)
    assert float(made.step(np.array([2.0]))[1]) >= -1.0
    assert isinstance(made, ClipReward)


def test_a_wrapper_that_writes_files_is_not_applied(
    pendulum: DatasetSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    video = {
        "name": "RecordVideo",
        "entry_point": "gymnasium.wrappers.rendering:RecordVideo",
        "kwargs": {"video_folder": str(tmp_path / "videos")},
    }
    other = {"name": "ClipReward", "entry_point": "elsewhere:ClipReward", "kwargs": {}}
    with caplog.at_level(logging.WARNING):
        env = make_env(changed(pendulum, additional_wrappers=[video, other]))
    env.close()
    assert "(RecordVideo, ClipReward)" in caplog.text
    assert not (tmp_path / "videos").exists()


@pytest.mark.parametrize(
    ("env_id", "advice"),
    [
        ("Hopper-v99", r'pip install "lit_offrl\[mujoco\]"'),
        ("AntMaze_Huge-v99", r'pip install "lit_offrl\[robotics\]"'),
        ("ALE/Nothing-v99", r'pip install "lit_offrl\[atari\]"'),
        ("Nothing-v0", "install the package"),
    ],
)
def test_an_unknown_environment_says_what_to_install(
    pendulum: DatasetSpec, env_id: str, advice: str
) -> None:
    with pytest.raises(InputError, match=advice) as raised:
        make_env(changed(pendulum, id=env_id))
    assert "\n" not in str(raised.value)


def test_arguments_that_the_environment_does_not_take_are_an_input_error(
    pendulum: DatasetSpec,
) -> None:
    with pytest.raises(InputError, match="cannot be made"):
        make_env(changed(pendulum, kwargs={"mass_of_the_moon": 1}))


def test_an_environment_with_other_spaces_is_refused(pendulum: DatasetSpec) -> None:
    with pytest.raises(InputError, match=r"observation space is Box.*data set's is Box") as raised:
        make_env(pendulum, "CartPole-v1")
    assert "\n" not in str(raised.value)

    obs_space = spaces.Box(-np.inf, np.inf, (3,))
    wider = spec_of(obs_space, spaces.Box(-3, 3, (1,)))
    with pytest.raises(InputError, match="action space"):
        make_env(wider, "Pendulum-v1")


def test_bounds_that_a_file_does_not_know_are_not_compared() -> None:
    spec = spec_of(spaces.Box(-np.inf, np.inf, (3,)), spaces.Box(-2, 2, (1,)))
    unbounded = serialize_space(spaces.Box(-np.inf, np.inf, (1,)))
    make_env(replace(spec, action_space=unbounded), "Pendulum-v1").close()


def test_a_data_set_without_environment_says_so() -> None:
    spec = spec_of(spaces.Box(-1, 1, (3,)), spaces.Discrete(2))
    with pytest.raises(InputError, match="does not say which environment"):
        make_env(spec)
