import os
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from lit_offrl.data.builtin import (
    BUILTIN,
    cartpole,
    ensure,
    gridworld,
    icu_sepsis,
    pendulum,
    resolve,
)
from lit_offrl.data.builtin.recording import play
from lit_offrl.data.builtin.tabular import TabularMDP, register, sampled
from lit_offrl.errors import InputError

SMALL = 0.05
CLASSIC = [gridworld, cartpole, pendulum]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    return tmp_path / "sets"


@pytest.fixture
def small(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for module in CLASSIC:
        monkeypatch.setitem(BUILTIN, module.DATASET_ID, partial(module.make, SMALL))
    return root


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, minari.MinariDataset]:
    """Sets of moderate size, made once for the tests that only read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("sets")))
        return {
            "cartpole": cartpole.make(0.2),
            "pendulum": pendulum.make(0.2),
        }


@pytest.fixture(scope="module")
def whole_gridworld(tmp_path_factory: pytest.TempPathFactory) -> minari.MinariDataset:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("sets")))
        return gridworld.make()


def episodes_by_behavior(dataset: minari.MinariDataset) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    metadata = dataset.storage.get_episode_metadata(range(dataset.total_episodes))
    for episode, about in zip(dataset.iterate_episodes(), metadata, strict=True):
        found.setdefault(about["behavior"], []).append(episode)
    return found


def mean_returns(dataset: minari.MinariDataset) -> dict[str, float]:
    return {
        name: float(np.mean([episode.rewards.sum() for episode in episodes]))
        for name, episodes in episodes_by_behavior(dataset).items()
    }


def content(dataset: minari.MinariDataset) -> list[Any]:
    return [
        array
        for episode in dataset.iterate_episodes()
        for array in (episode.observations, episode.actions, episode.rewards)
    ]


def test_short_and_full_ids_resolve_and_others_do_not(root: Path) -> None:
    for full in BUILTIN:
        name = full.removeprefix("lit_offrl/")
        assert resolve(full) == full
        assert resolve(name[: -len("-v0")]) == full
        assert resolve(full[: -len("-v0")]) == full
        assert resolve(name) is None
    assert resolve("pendulum") is None


def test_a_local_set_of_exactly_the_short_id_wins(root: Path) -> None:
    (root / "pendulum" / "mixed" / "data").mkdir(parents=True)
    assert resolve("pendulum/mixed") is None
    assert resolve("cartpole/mixed") == cartpole.DATASET_ID


def test_an_unknown_id_is_an_input_error(root: Path) -> None:
    with pytest.raises(InputError, match="not a built-in set"):
        ensure("pendulum/expert")


@pytest.mark.parametrize("module", CLASSIC, ids=lambda module: module.__name__.split(".")[-1])
def test_a_set_is_complete_listed_and_made_once(
    module: Any, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = module.DATASET_ID
    ensure(full)
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert list(minari.list_local_datasets()) == [full]
    assert minari.namespace.list_local_namespaces() == ["lit_offrl", full.rpartition("/")[0]]
    assert sorted(path.name for path in small.iterdir()) == [".lit_offrl.lock", "lit_offrl"]

    dataset = minari.load_dataset(full)
    low, high = (dataset.storage.metadata[f"ref_{end}_score"] for end in ("min", "max"))
    assert low < high
    assert minari.get_normalized_score(dataset, np.array([low, high])).tolist() == [0.0, 1.0]
    env = gym.make(dataset.spec.env_spec.id)
    assert env.observation_space == dataset.observation_space
    assert env.action_space == dataset.action_space
    for episode in dataset.iterate_episodes():
        assert len(episode.observations) == len(episode.rewards) + 1
        assert all(dataset.action_space.contains(action) for action in episode.actions)
        ends = episode.terminations | episode.truncations
        assert ends[-1] and not ends[:-1].any()

    before = (small / full / "data" / "metadata.json").stat().st_mtime_ns
    ensure(full)
    assert capsys.readouterr().out == ""
    assert (small / full / "data" / "metadata.json").stat().st_mtime_ns == before


@pytest.mark.parametrize("module", CLASSIC, ids=lambda module: module.__name__.split(".")[-1])
def test_the_same_recipe_gives_the_same_episodes(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents: list[list[Any]] = []
    for folder in ("a", "b"):
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / folder))
        np.random.seed(len(contents))  # the global generator must not matter
        contents.append(content(module.make(SMALL)))
    for first, second in zip(*contents, strict=True):
        np.testing.assert_array_equal(first, second)


def test_an_episode_is_replayed_by_its_seed_and_actions(
    made: dict[str, minari.MinariDataset],
) -> None:
    dataset = made["pendulum"]
    metadata = next(iter(dataset.storage.get_episode_metadata([0])))
    episode = dataset[0]
    env = gym.make("Pendulum-v1")
    obs, _ = env.reset(seed=metadata["seed"])
    for action, expected, reward in zip(
        episode.actions, episode.observations[1:], episode.rewards, strict=True
    ):
        obs, got, *_ = env.step(action)
        np.testing.assert_array_equal(obs, expected)
        assert got == reward


def test_pendulum_mixes_a_swing_up_with_bad_torques(made: dict[str, minari.MinariDataset]) -> None:
    returns = mean_returns(made["pendulum"])
    assert -230 < returns["swing-up"] < -90
    assert returns["negated"] < -1700
    assert -1500 < returns["random"] < -950
    assert max(returns["constant left"], returns["constant right"]) < -1200


def test_cartpole_mixes_a_balancing_controller_with_tipping_ones(
    made: dict[str, minari.MinariDataset],
) -> None:
    dataset = made["cartpole"]
    returns = mean_returns(dataset)
    assert returns.pop("balance") > 490
    assert 15 < returns.pop("random") < 30
    assert max(returns.values()) < 15
    good = sum(len(e.rewards) for e in episodes_by_behavior(dataset)["balance"])
    assert 0.2 < good / dataset.total_steps < 0.4


def test_cartpole_propensities_are_frequencies(made: dict[str, minari.MinariDataset]) -> None:
    for name, episodes in episodes_by_behavior(made["cartpole"]).items():
        log_prob = np.concatenate([e.infos["behavior_log_prob"][:-1] for e in episodes])
        action = np.concatenate([e.actions for e in episodes])
        obs = np.concatenate([e.observations[:-1] for e in episodes])
        agrees = action == [cartpole.balance(x) for x in obs]
        likely = {"balance": 0.9, "negated": 0.25, "random": 0.5}.get(name)
        if likely is None:
            assert (log_prob == 0.0).all()
            continue
        expected = np.log(np.where(agrees, likely, 1 - likely))
        np.testing.assert_allclose(log_prob, expected, atol=1e-12)
        error = np.sqrt(likely * (1 - likely) / len(agrees))
        assert abs(agrees.mean() - likely) < 4 * error


@pytest.mark.slow
def test_gridworld_returns_are_the_exact_ones(whole_gridworld: minari.MinariDataset) -> None:
    mdp = gridworld.gridworld()
    policies = gridworld.behavior_policies(mdp)
    for name, episodes in episodes_by_behavior(whole_gridworld).items():
        returns = np.array([e.rewards.sum() for e in episodes])
        error = returns.std() / np.sqrt(len(returns))
        assert abs(returns.mean() - mdp.expected_return(policies[name])) < 4 * error


@pytest.mark.slow
def test_gridworld_propensities_are_the_policy_s_log_probabilities(
    whole_gridworld: minari.MinariDataset,
) -> None:
    policies = gridworld.behavior_policies(gridworld.gridworld())
    for name, episodes in episodes_by_behavior(whole_gridworld).items():
        for episode in episodes:
            expected = np.log(policies[name][episode.observations[:-1], episode.actions])
            log_prob = episode.infos["behavior_log_prob"]
            assert len(log_prob) == len(episode.observations)
            np.testing.assert_allclose(log_prob[:-1], expected, atol=1e-12)


@pytest.mark.slow
def test_gridworld_covers_every_state_and_action(whole_gridworld: minari.MinariDataset) -> None:
    mdp = gridworld.gridworld()
    seen = np.zeros((mdp.n_states, mdp.n_actions), dtype=bool)
    for episode in whole_gridworld.iterate_episodes():
        seen[episode.observations[:-1], episode.actions] = True
    np.testing.assert_array_equal(seen.all(axis=1), ~mdp.terminal)


def test_gridworld_is_a_valid_environment() -> None:
    env = gym.make(gridworld.ENV_ID)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.spec is not None and env.spec.max_episode_steps == gridworld.HORIZON
    register(gridworld.ENV_ID, "nowhere:Nothing", 1)  # a second time does nothing
    assert gym.spec(gridworld.ENV_ID).max_episode_steps == gridworld.HORIZON


def chain() -> TabularMDP:
    """Two states and a goal: action 0 stays, action 1 moves on."""
    transition = np.zeros((3, 2, 3))
    transition[[0, 1, 2], 0, [0, 1, 2]] = 1.0
    transition[[0, 1, 2], 1, [1, 2, 2]] = 1.0
    terminal = np.array([False, False, True])
    return TabularMDP(transition, np.array([0.0, 0.0, 1.0]), terminal, np.array([1.0, 0, 0]), 4)


def test_values_of_a_chain_have_their_closed_form() -> None:
    mdp, discount = chain(), 0.9
    np.testing.assert_allclose(
        mdp.optimal_q_values(discount), [[0.81, 0.9], [0.9, 1.0], [0.0, 0.0]]
    )
    np.testing.assert_array_equal(mdp.optimal_policy(discount)[:2], [[0, 1], [0, 1]])
    # One step of the uniform policy: V = γ/2 V + R/2, so V(1) = .5/(1 - .45), V(0) = .45/.55 V(1).
    v1 = 0.5 / 0.55
    values = mdp.values(mdp.uniform_policy(), discount)
    np.testing.assert_allclose(values, [0.45 / 0.55 * v1, v1, 0.0])
    # Two moves on out of at most four coin flips: 1 - (1 + 4) / 16.
    assert mdp.expected_return(mdp.uniform_policy()) == pytest.approx(11 / 16)


def test_gridworld_s_optimum_satisfies_bellman_and_beats_monte_carlo_of_the_rest() -> None:
    mdp, discount = gridworld.gridworld(), gridworld.DISCOUNT
    q = mdp.optimal_q_values(discount)
    v = q.max(axis=1)
    np.testing.assert_allclose(q, mdp.reward + discount * mdp.transition @ v, atol=1e-9)
    assert (q[mdp.terminal] == 0).all()

    env, policy = gym.make(gridworld.ENV_ID), mdp.optimal_policy(1.0)
    returns = np.array([sum(play(env, sampled(policy), i).rewards) for i in range(1000)])
    error = returns.std() / np.sqrt(len(returns))
    assert abs(returns.mean() - mdp.expected_return(policy)) < 4 * error


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_an_interruption_leaves_nothing_and_the_next_call_makes_the_set(
    stop: type[BaseException], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(scale: float = SMALL) -> Any:
        pendulum.make(scale)
        raise stop

    with monkeypatch.context() as patch:
        patch.setitem(BUILTIN, pendulum.DATASET_ID, half)
        with pytest.raises(stop):
            ensure("pendulum/mixed")
    assert [path.name for path in small.iterdir()] == [".lit_offrl.lock"]
    assert os.environ["MINARI_DATASETS_PATH"] == str(small)

    leftover = small / ".lit_offrl-partial" / pendulum.DATASET_ID / "data"
    leftover.mkdir(parents=True)  # of a process that was killed
    assert minari.list_local_datasets() == {}
    ensure("pendulum/mixed")
    assert list(minari.list_local_datasets()) == [pendulum.DATASET_ID]
    assert not (small / ".lit_offrl-partial").exists()


@pytest.mark.slow
def test_two_processes_make_a_set_once(root: Path) -> None:
    code = (
        "from lit_offrl.data import builtin\n"
        "from lit_offrl.data.builtin import pendulum\n"
        f"builtin.BUILTIN[pendulum.DATASET_ID] = lambda: pendulum.make({SMALL})\n"
        "builtin.ensure('pendulum/mixed')\n"
    )
    racers = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [racer.communicate(timeout=200)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert sum(output.count("Making") for output in outputs) == 1
    assert minari.load_dataset(pendulum.DATASET_ID).total_episodes > 0


def test_a_folder_that_cannot_be_written_is_an_input_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file" / "sets"))
    with pytest.raises(InputError, match="MINARI_DATASETS_PATH"):
        ensure("pendulum/mixed")


def test_icu_sepsis_without_its_package_names_the_extra(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    icu_sepsis.icu_sepsis.cache_clear()
    monkeypatch.setattr("lit_offrl.data.builtin.icu_sepsis.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install \"lit_offrl\[sepsis\]\""):
        ensure("icu_sepsis/clinician")
    assert [path.name for path in root.iterdir()] == [".lit_offrl.lock"]


def needs_sepsis() -> tuple[TabularMDP, Any]:
    if find_spec("icu_sepsis") is None:
        pytest.skip("icu-sepsis is not installed")
    return icu_sepsis.icu_sepsis()


def test_icu_sepsis_has_the_published_values() -> None:
    mdp, clinicians = needs_sepsis()
    assert mdp.expected_return(clinicians) == pytest.approx(0.781845, abs=1e-6)
    assert mdp.expected_return(mdp.uniform_policy()) == pytest.approx(0.780071, abs=1e-6)
    assert mdp.expected_return(mdp.optimal_policy(1.0)) == pytest.approx(0.875142, abs=1e-6)
    assert mdp.start @ mdp.values(clinicians, 1.0) == pytest.approx(0.781845, abs=1e-6)


def test_icu_sepsis_logs_the_clinicians_propensities(root: Path) -> None:
    _, clinicians = needs_sepsis()
    dataset = icu_sepsis.make(SMALL)
    assert dataset.observation_space == gym.spaces.Discrete(716)
    assert dataset.action_space == gym.spaces.Discrete(25)
    lengths = []
    for episode in dataset.iterate_episodes():
        lengths.append(len(episode.rewards))
        expected = np.log(clinicians[episode.observations[:-1], episode.actions])
        np.testing.assert_allclose(episode.infos["behavior_log_prob"][:-1], expected, atol=1e-12)
        survived = episode.observations[-1] == icu_sepsis.SURVIVAL
        assert episode.rewards.tolist() == [0.0] * (lengths[-1] - 1) + [float(survived)]
    assert np.mean(lengths) == pytest.approx(9.238, abs=4 * np.std(lengths) / np.sqrt(len(lengths)))


def test_five_sets_are_built_in() -> None:
    assert set(BUILTIN) == {
        "lit_offrl/gridworld/mixed-v0",
        "lit_offrl/cartpole/mixed-v0",
        "lit_offrl/pendulum/mixed-v0",
        "lit_offrl/icu_sepsis/clinician-v0",
        "lit_offrl/breakout/mixed-v0",
    }
