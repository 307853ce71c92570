from pathlib import Path

import numpy as np
import pytest
import torch

from lit_offrl.batch import Layout
from lit_offrl.data import Transitions
from lit_offrl.online.environments import Step
from lit_offrl.online.episodes import Finished, OpenEpisodes
from lit_offrl.online.replay import ReplayBuffer
from lit_offrl.scaling import Scaling

SCALING = Scaling(
    torch.tensor([1.0]), torch.tensor([2.0]), torch.tensor([-2.0]), torch.tensor([2.0]), 0.5, 0.25
)
AFTER_CUT = -7.0
GAMMA = 0.9


def collected(
    path: Path, ends: list[list[str]], extras: tuple[str, ...] = ("truncated", "mc_return")
) -> tuple[OpenEpisodes, ReplayBuffer, Layout]:
    """One step per entry of ``ends``; of E environments, ``t`` terminates and ``l`` truncates."""
    layout = Layout(1, 1, False, extras)
    buffer = ReplayBuffer(100, layout.width, path)
    episodes = OpenEpisodes(len(ends[0]), layout, GAMMA, SCALING, buffer, AFTER_CUT)
    for t, flags in enumerate(ends):
        n = len(flags)
        step = Step(
            np.full((n, 1), t, np.float32),
            np.arange(n, dtype=np.float64) + 10 * t,
            np.full((n, 1), t + 1, np.float32),
            np.array([flag == "t" for flag in flags]),
            np.array([flag == "l" for flag in flags]),
        )
        episodes.add(step, torch.full((n, 1), 0.1 * t), n * (t + 1))
    return episodes, buffer, layout


def test_rows_are_what_the_networks_see(tmp_path: Path) -> None:
    _, buffer, layout = collected(tmp_path, [["-"], ["t"]])
    batch = layout.unpack(buffer.gather(torch.arange(2)))
    assert batch.obs.flatten().tolist() == [-0.5, 0.0]
    assert batch.next_obs.flatten().tolist() == [0.0, 0.5]
    torch.testing.assert_close(batch.action.flatten(), torch.tensor([0.0, 0.1]))
    assert batch.reward.tolist() == [0.25, 5.25]
    assert batch.terminated.tolist() == [0, 1]


def test_returns_are_those_of_the_log_once_an_episode_has_ended(tmp_path: Path) -> None:
    episodes, buffer, layout = collected(tmp_path, [["-", "-"], ["-", "l"], ["t", "-"], ["-", "-"]])
    batch = layout.unpack(buffer.gather(torch.arange(8)))
    assert batch.mc_return is not None
    # the first environment's rows 0, 2, 4 and the second's 1, 3 have ended
    for rows, rewards in (([0, 2, 4], [0.0, 10.0, 20.0]), ([1, 3], [1.0, 11.0])):
        n = len(rows)
        flags, cut = np.zeros(n, bool), np.arange(n) == (n - 1 if n == 2 else n)
        reward = (0.5 * np.array(rewards) + 0.25).astype(np.float32)
        obs = np.zeros((n, 1), np.float32)
        log = Transitions(obs, obs, reward, obs, flags, cut, np.zeros(n, np.int64))
        expected = log.mc_returns(GAMMA, AFTER_CUT)
        np.testing.assert_allclose(batch.mc_return[rows], expected, rtol=1e-6)
    assert batch.mc_return[[5, 6, 7]].tolist() == [-torch.inf] * 3
    assert batch.truncated is not None and batch.truncated.tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert episodes.finished == [Finished(4, 12.0, 2), Finished(6, 30.0, 3)]
    assert episodes.settled == 5


def test_without_late_fields_all_rows_are_settled(tmp_path: Path) -> None:
    assert collected(tmp_path, [["-"], ["-"]], ())[0].settled == 2
    assert collected(tmp_path, [["-"], ["-"]])[0].settled == 0
    assert collected(tmp_path, [["-"], ["t"]])[0].settled == 2


def test_episodes_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    whole, buffer, layout = collected(tmp_path, [["-"], ["-"], ["t"]])
    half, other, _ = collected(tmp_path / "b", [["-"], ["-"]])
    again = OpenEpisodes(1, layout, GAMMA, SCALING, other)
    again.load_state_dict(half.state_dict())
    arrays = np.full((1, 1), 2, np.float32), np.array([20.0]), np.full((1, 1), 3, np.float32)
    again.add(Step(*arrays, np.array([True]), np.array([False])), torch.full((1, 1), 0.2), 3)
    assert torch.equal(other.rows[:3], buffer.rows[:3])
    assert again.finished == whole.finished


def test_episodes_that_are_given_up_never_end(tmp_path: Path) -> None:
    episodes, buffer, layout = collected(tmp_path, [["-"], ["-"]])
    episodes.give_up()
    assert episodes.settled == 2 and episodes.finished == []
    assert layout.unpack(buffer.gather(torch.arange(2))).mc_return == pytest.approx(-np.inf)
