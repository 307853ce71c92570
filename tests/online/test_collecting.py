import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec

from lit_offrl.algorithms import CQL, IQL, TD3BC, DiscreteCQL, DiscreteIQL, OfflineAlgorithm
from lit_offrl.algorithms.pex import PEX
from lit_offrl.checkpoint import LoadedPolicy, TrainingInfo
from lit_offrl.data import Transitions, load_dataset
from lit_offrl.errors import EnvironmentFailed, InputError
from lit_offrl.online import collecting
from lit_offrl.online.acting import checkpoint_act, random_act
from lit_offrl.online.collecting import Recipe, collect
from lit_offrl.online.exploration import Exploration
from tests.evaluation.fakes import identity_scaling, spec_of_env
from tests.online.toys import line_id

ENV = "CartPole-v1"


@pytest.fixture(autouse=True)
def minari_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("LIT_OFFRL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "minari"


def left(obs: Any, rng: np.random.Generator) -> int:
    return 0


def mostly_right(obs: Any, rng: np.random.Generator) -> tuple[int, float]:
    right = rng.random() < 0.8
    return int(right), math.log(0.8 if right else 0.2)


def mostly_silent(obs: Any, rng: np.random.Generator) -> tuple[int, float | None]:
    return 0, None if rng.random() < 0.1 else -0.5


def recipe(*policies: str, **changed: Any) -> Recipe:
    given: dict[str, Any] = {
        "env_id": ENV,
        "policies": policies or ("random",),
        "shares": (1.0,) * max(1, len(policies)),
        "dataset_id": "mine/mixed-v0",
        "steps": 300,
        "episodes": None,
        "seed": 0,
        "exploration": Exploration(),
    }
    return Recipe(**{**given, **changed})


LEFT, RIGHT = "tests.online.test_collecting:left", "tests.online.test_collecting:mostly_right"


def recorded(wanted: Recipe) -> Transitions:
    collect(wanted)
    return load_dataset(wanted.dataset_id)[0]


def behaviors(dataset_id: str) -> list[str]:
    storage = minari.load_dataset(dataset_id).storage
    return [str(e["behavior"]) for e in storage.get_episode_metadata(range(storage.total_episodes))]


def test_random_actions_are_uniform_and_carry_their_probability() -> None:
    rows = recorded(recipe(steps=2000))
    assert rows.behavior_log_prob is not None
    np.testing.assert_allclose(rows.behavior_log_prob, -math.log(2), rtol=1e-6)
    assert abs(rows.action.mean() - 0.5) < 0.05
    assert len(rows) >= 2000 > len(rows) - np.diff(rows.episode_bounds)[-1]
    assert len(np.unique(rows.obs[rows.episode_bounds[:-1]], axis=0)) == rows.n_episodes


def test_random_actions_have_the_space_s_type_shape_and_all_its_values() -> None:
    rng = np.random.default_rng(0)
    whole = random_act(gym.spaces.Box(0, 3, (2,), np.int8))
    drawn = [whole(None, rng) for _ in range(100)]
    assert {int(value) for action, _ in drawn for value in action} == {0, 1, 2, 3}
    assert drawn[0][0].dtype == np.int8 and drawn[0][1] == pytest.approx(-2 * math.log(4))
    space = gym.spaces.Box(-1.0, 3.0, ())
    action, log_prob = random_act(space)(None, rng)
    assert action in space and log_prob == pytest.approx(-math.log(4))


def test_a_mixture_has_the_shares_asked_for() -> None:
    wanted = recipe(LEFT, RIGHT, shares=(1.0, 3.0), steps=1000)
    rows = recorded(wanted)
    who = np.array(behaviors(wanted.dataset_id))
    lengths = np.diff(rows.episode_bounds)
    share = lengths[who == LEFT].sum() / lengths.sum()
    assert share == pytest.approx(0.25, abs=0.02)
    assert (rows.action[np.repeat(who == LEFT, lengths)] == 0).all()
    assert rows.behavior_log_prob is None  # `left` does not say


def test_a_functions_probabilities_are_kept() -> None:
    rows = recorded(recipe(RIGHT))
    assert rows.behavior_log_prob is not None
    wanted = np.where(rows.action == 1, math.log(0.8), math.log(0.2))
    np.testing.assert_allclose(rows.behavior_log_prob, wanted, rtol=1e-6)


def test_an_episode_with_an_action_without_a_probability_has_none() -> None:
    rows = recorded(recipe("tests.online.test_collecting:mostly_silent", steps=60))
    assert rows.behavior_log_prob is None


def test_time_limits_and_ends_are_kept_apart() -> None:
    rows = recorded(recipe(env_id=line_id(), episodes=3, steps=None))
    ends = rows.episode_bounds[1:] - 1
    assert (rows.truncated[ends] ^ rows.terminated[ends]).all()
    np.testing.assert_allclose(rows.next_obs[ends, 1], np.diff(rows.episode_bounds))


def test_the_same_recipe_gives_the_same_set_and_another_seed_another() -> None:
    one = recorded(recipe(RIGHT))
    two = recorded(recipe(RIGHT, dataset_id="mine/again-v0"))
    other = recorded(recipe(RIGHT, dataset_id="mine/other-v0", seed=1))
    np.testing.assert_array_equal(one.obs, two.obs)
    np.testing.assert_array_equal(one.action, two.action)
    assert len(one) != len(other) or not np.array_equal(one.obs, other.obs)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", [1, 4])
def test_a_recording_that_was_killed_goes_on(
    moment: int, minari_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = recorded(recipe(RIGHT, dataset_id="mine/whole-v0"))
    played: list[int] = []
    real = collecting._play

    def dying(*arguments: Any) -> Any:
        nonlocal moment
        if len(played) == moment:
            moment = -1
            raise Killed
        played.append(arguments[-1])
        return real(*arguments)

    monkeypatch.setattr(collecting, "_play", dying)
    with pytest.raises(Killed):
        collect(recipe(RIGHT))
    assert not (minari_folder / "mine" / "mixed-v0").exists()
    again = recorded(recipe(RIGHT))
    assert played == list(range(len(played)))  # no episode twice
    np.testing.assert_array_equal(again.obs, whole.obs)
    np.testing.assert_array_equal(again.behavior_log_prob, whole.behavior_log_prob)
    assert [p.name for p in minari_folder.iterdir() if p.name.startswith(".collect")] == []


def test_another_recording_of_the_same_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(collecting, "_play", lambda *_: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            collect(recipe(RIGHT))
    with pytest.raises(InputError, match="holds another recording"):
        collect(recipe(RIGHT, seed=1))
    collect(recipe(RIGHT))
    with pytest.raises(InputError, match="There is a set `mine/mixed-v0`"):
        collect(recipe(RIGHT))


def test_a_recording_does_not_go_on_with_another_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "best.ckpt"
    monkeypatch.setattr(collecting, "find_policy", lambda *_: lambda *_: (0, None))
    wanted = recipe(str(checkpoint))
    checkpoint.write_bytes(b"one")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(collecting, "_play", lambda *_: (_ for _ in ()).throw(Killed()))
        collect(wanted)
    checkpoint.write_bytes(b"two")
    with pytest.raises(InputError, match="with checkpoints that are unchanged since"):
        collect(wanted)
    checkpoint.write_bytes(b"one")
    collect(wanted)


def test_reference_scores_are_measured() -> None:
    collect(recipe(RIGHT, steps=50, ref_scores=True))
    spec = load_dataset("mine/mixed-v0")[1]
    assert spec.ref_min_score is not None and 10 < spec.ref_min_score < 40
    assert spec.ref_max_score is not None and 5 < spec.ref_max_score < 30


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", "the arm is stuck"),
        ("nan_reward", "episode 0: a reward is NaN or inf at step 1"),
        ("nan", "episode 0: an observation is NaN or inf at step 2"),
        ("huge_reward", "episode 0: a reward is 1e\\+300, too large to train on"),
        ("shape", "episode 0: an observation is not of its space"),
    ],
)
def test_an_environment_that_fails_keeps_the_episodes_before(
    fault: str, message: str, minari_folder: Path
) -> None:
    with pytest.raises(EnvironmentFailed, match=message):
        collect(recipe(env_id=line_id(fault), steps=50))
    assert (minari_folder / ".collect-mine-mixed-v0" / "recipe.json").is_file()


def policy_of(algorithm: OfflineAlgorithm, env_id: str) -> LoadedPolicy:
    spec = spec_of_env(env_id)
    return LoadedPolicy(algorithm.eval(), spec, identity_scaling(spec), TrainingInfo(0, 0))


CASES: list[tuple[str, Callable[[], OfflineAlgorithm], Exploration]] = [
    ("CartPole-v1", lambda: DiscreteIQL(4, 2, hidden=(8,)), Exploration(epsilon=0.3)),
    ("CartPole-v1", lambda: DiscreteCQL(4, 2, hidden=(8,)), Exploration(epsilon=0.3)),
    (
        "CartPole-v1",
        lambda: DiscreteIQL(4, 2, hidden=(8,)),
        Exploration(sample_scale=0.0, epsilon=0.3),
    ),
    ("Pendulum-v1", lambda: CQL(3, 1, (8,), (8,)), Exploration()),
]


@pytest.mark.parametrize(("env_id", "make", "exploration"), CASES)
def test_a_checkpoints_probabilities_are_those_it_draws_with(
    env_id: str, make: Callable[[], OfflineAlgorithm], exploration: Exploration
) -> None:
    policy, env = policy_of(make(), env_id), gym.make(env_id)
    act = checkpoint_act(policy, env, exploration)
    obs, _ = env.reset(seed=0)
    torch.manual_seed(0)
    drawn = [act(obs, np.random.default_rng(0)) for _ in range(2000)]
    density = np.exp([log_prob for _, log_prob in drawn])  # type: ignore[arg-type]
    actions = np.array([np.asarray(action).ravel()[0] for action, _ in drawn])
    if env_id == "CartPole-v1":
        for value in np.unique(actions):
            share = (actions == value).mean()
            assert density[actions == value] == pytest.approx(share, abs=0.04)
        return
    counts, edges = np.histogram(actions, bins=8)
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        inside = (actions >= low) & (actions < high)
        if count > 200:
            assert count / 2000 / (high - low) == pytest.approx(density[inside].mean(), rel=0.2)


def test_greedy_is_what_the_policy_does_by_itself() -> None:
    greedy, drawn = Exploration(sample_scale=0.0, epsilon=0.0), np.random.default_rng(0)
    algorithms: list[tuple[str, OfflineAlgorithm]] = [
        ("Pendulum-v1", PEX(3, 1, hidden=(8,))),
        ("CartPole-v1", DiscreteIQL(4, 2, hidden=(8,))),
    ]
    for env_id, algorithm in algorithms:
        policy, env = policy_of(algorithm, env_id), gym.make(env_id)
        act = checkpoint_act(policy, env, greedy)
        for seed in range(20):
            obs, _ = env.reset(seed=seed)
            action, log_prob = act(obs, drawn)
            np.testing.assert_array_equal(action, policy(obs))
            assert log_prob == (0.0 if env_id == "CartPole-v1" else None)
    policy, env = policy_of(PEX(3, 1, hidden=(8,)), "Pendulum-v1"), gym.make("Pendulum-v1")
    with pytest.raises(InputError, match="PEX chooses between two policies"):
        checkpoint_act(policy, env, Exploration(sample_scale=0.5))


class Reusing(gym.Env[Any, Any]):
    """Counts its steps in one array that it hands out again and again, in a nested observation."""

    observation_space = gym.spaces.Dict(
        {
            "count": gym.spaces.Box(-np.inf, np.inf, (2,), np.float64),
            "more": gym.spaces.Tuple((gym.spaces.Discrete(5), gym.spaces.Box(0, 9, (1,)))),
        }
    )
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.count, self.last = np.zeros(2), np.zeros(1, np.float32)
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.count += 1
        self.last[:] = self.count[0]
        action[:] = 0
        return self._obs(), 1.0, bool(self.count[0] == 4), False, {}

    def _obs(self) -> Any:
        return {"count": self.count, "more": (np.int64(self.count[0]), self.last)}


BOX = gym.spaces.Box(-1.0, 1.0, (1,))
UNREADABLE: list[tuple[gym.Space[Any], gym.Space[Any], str]] = [
    (gym.spaces.Text(3), BOX, "observations of space Text"),
    (gym.spaces.Dict(a=gym.spaces.Sequence(BOX)), BOX, "observations of space Dict"),
    (gym.spaces.Tuple((gym.spaces.Graph(BOX, None),)), BOX, "observations of space Tuple"),
    (BOX, gym.spaces.MultiBinary(2), "actions of space MultiBinary"),
    (BOX, gym.spaces.Box(0.0, 0.0, (1,)), "dimension 0 of the action space has equal bounds"),
    (BOX, gym.spaces.MultiDiscrete([5000, 5000]), "more than 16777216 actions"),
]


class Unreadable(gym.Env[Any, Any]):
    """Has spaces that no data set can be read with, and must never be played."""

    def __init__(self, case: int) -> None:
        self.observation_space, self.action_space, _ = UNREADABLE[case]

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        raise AssertionError("played")


@pytest.mark.parametrize("case", range(len(UNREADABLE)))
def test_spaces_that_no_set_can_have_are_refused_before_the_first_step(
    case: int, minari_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = EnvSpec("tests/Unreadable-v0", f"{__name__}:Unreadable", kwargs={"case": case})
    monkeypatch.setitem(gym.registry, spec.id, spec)
    with pytest.raises(InputError, match=UNREADABLE[case][2]):
        collect(recipe(LEFT, env_id=spec.id))
    assert not minari_folder.exists()


@pytest.mark.parametrize("entry", [Unreadable, f"{__name__}:Unreadable"])
def test_an_environment_that_a_set_cannot_name_is_refused(
    entry: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = EnvSpec("tests/Nameless-v0", entry, kwargs={"case": np.int64(0)})
    monkeypatch.setitem(gym.registry, spec.id, spec)
    with pytest.raises(InputError, match="that a set cannot name"):
        collect(recipe(LEFT, env_id=spec.id))


@pytest.mark.filterwarnings("ignore:.*share an object")
def test_nested_observations_in_arrays_that_are_used_again_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        gym.registry, "tests/Reusing-v0", EnvSpec("tests/Reusing-v0", f"{__name__}:Reusing")
    )
    wanted = recipe(env_id="tests/Reusing-v0", steps=None, episodes=3)
    real, count = collecting._play, iter((0, 1))

    def dying(*arguments: Any) -> Any:
        if next(count, None) is None:
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(collecting, "_play", dying)
        collect(wanted)
    rows = recorded(wanted)
    steps = np.tile(np.arange(4.0), 3)
    obs = np.column_stack([steps, steps, *(steps == i for i in range(5)), steps])
    np.testing.assert_array_equal(rows.obs, obs)
    np.testing.assert_array_equal(rows.next_obs[:, 0], steps + 1)
    assert (rows.action != 0).all()


class Numbers(gym.Env[Any, Any]):
    """Shows single numbers and a picture, as NumPy's numbers and arrays without axes."""

    observation_space = gym.spaces.Dict(
        half=gym.spaces.Box(-1.0, 1.0, (), np.float32),
        single=gym.spaces.Box(-1.0, 1.0, (), np.float32),
        picture=gym.spaces.Box(0, 255, (32, 32, 3), np.uint8),
    )
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return self._obs(), 1.0, self.t == 3, False, {}

    def _obs(self) -> Any:
        drawn = self.np_random.integers(0, 256, (32, 32, 3)).astype(np.uint8)
        number = np.float32(self.np_random.random())
        return {"half": np.array(number), "single": number, "picture": drawn}


def array_without_axes(obs: Any, rng: np.random.Generator) -> Any:
    return np.array(rng.integers(2))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_images_are_kept_as_they_are_and_a_resumed_set_is_the_same_to_the_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = EnvSpec("tests/Numbers-v0", f"{__name__}:Numbers")
    monkeypatch.setitem(gym.registry, spec.id, spec)
    policy = "tests.online.test_collecting:array_without_axes"
    wanted = recipe(policy, env_id=spec.id, steps=None, episodes=3)
    real = collecting._play
    shown: list[Any] = []
    collect(replace(wanted, dataset_id="mine/whole-v0"))

    def dying(*arguments: Any) -> Any:
        if len(shown) == 2:
            raise Killed
        shown.append(real(*arguments))
        return shown[-1]

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(collecting, "_play", dying)
        collect(wanted)
    rows = recorded(wanted)
    pictures = np.concatenate([episode.observations["picture"][:-1] for episode in shown])
    np.testing.assert_array_equal(rows.observed(np.arange(6))[:, 1:-1], pictures.reshape(6, -1))
    hashes = {load_dataset(name)[1].content_hash for name in ("mine/whole-v0", "mine/mixed-v0")}
    assert len(hashes) == 1


@pytest.mark.parametrize("make", [lambda: IQL(3, 1, (8,)), lambda: TD3BC(3, 1, (8,))])
def test_actions_that_are_clipped_have_no_probability(make: Callable[[], Any]) -> None:
    policy, env = policy_of(make(), "Pendulum-v1"), gym.make("Pendulum-v1")
    action, log_prob = checkpoint_act(policy, env, Exploration())(
        env.reset(seed=0)[0], np.random.default_rng(0)
    )
    assert log_prob is None and action in env.action_space


def broken(obs: Any, rng: np.random.Generator) -> Any:
    raise RuntimeError("no idea")


def beyond(obs: Any, rng: np.random.Generator) -> Any:
    return [2.5]


def two_numbers(obs: Any, rng: np.random.Generator) -> Any:
    return np.zeros(2)


def no_number(obs: Any, rng: np.random.Generator) -> Any:
    return [np.nan]


def unlikely(obs: Any, rng: np.random.Generator) -> Any:
    return np.zeros(1), -np.inf


def probability(obs: Any, rng: np.random.Generator) -> Any:
    return 1, 0.8  # not its logarithm


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ("broken", r"failed \(RuntimeError: no idea\)"),
        ("beyond", "2.5 at step 0 lies outside the space"),
        ("two_numbers", "2 numbers per step"),
        ("no_number", "an action is NaN or inf at step 0"),
        ("unlikely", "-inf at step 0 is no log-probability"),
        ("probability", "0.8 at step 0 is no log-probability"),
    ],
)
def test_a_policy_that_no_set_can_hold_is_named_after_its_first_episode(
    policy: str, message: str, minari_folder: Path
) -> None:
    name = f"tests.online.test_collecting:{policy}"
    env_id = ENV if policy == "probability" else line_id()
    with pytest.raises(InputError, match=f"^Policy `{name}`.*{message}") as caught:
        collect(recipe(name, env_id=env_id, steps=None, episodes=50))
    assert not isinstance(caught.value, EnvironmentFailed)
    assert not (minari_folder / "mine").exists()


def test_actions_may_be_lists() -> None:
    rows = recorded(recipe("tests.online.test_collecting:listed", env_id=line_id(), steps=20))
    assert (rows.action == 0.5).all()


def listed(obs: Any, rng: np.random.Generator) -> Any:
    return [0.5]


def test_an_environment_that_fails_while_reference_scores_are_played_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(*_: Any) -> float:
        raise RuntimeError("the arm is stuck")

    monkeypatch.setattr(collecting, "mean_return", failing)
    with pytest.raises(
        EnvironmentFailed, match=r"failed in an episode \(RuntimeError: the arm is stuck\)"
    ):
        collect(recipe(LEFT, steps=20, ref_scores=True))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"shares": (1.0, 2.0)}, "1 policies and 2 shares"),
        ({"shares": (0.0,)}, "must be positive"),
        ({"episodes": 3}, "either `--steps` or `--episodes`"),
        ({"steps": 0}, "at least 1"),
        ({"dataset_id": "no version"}, "no id of a set"),
    ],
)
def test_wrong_recipes_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipe(**changed)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"policies": ("nobody",)}, "There is no policy `nobody`"),
        ({"policies": (":act",)}, "There is no policy `:act`"),
        ({"policies": ("tests.nowhere:act",)}, "cannot be imported"),
        ({"policies": ("tests.online.toys:BOX",)}, "is no function, but a"),
        ({"policies": ("none.ckpt",)}, "is not there"),
        ({"env_id": "Nowhere-v0"}, "cannot be made"),
    ],
)
def test_wrong_names_are_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        collect(recipe(**changed))
