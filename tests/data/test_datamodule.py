import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from lightning import LightningModule, Trainer, seed_everything

from lit_offrl.batch import Batch
from lit_offrl.data import OfflineDataModule, Transitions, load_dataset
from lit_offrl.data.packing import least_after_cut
from lit_offrl.errors import InputError
from lit_offrl.scaling import Scaling
from tests.data.makers import ACTION, episode, make_minari

NAME = "tests/small-v0"


@pytest.fixture(autouse=True)
def dataset(folders: None) -> None:
    """Episodes that can be told apart: the first observation feature is the episode's number."""
    buffers = []
    for i in range(20):
        steps = 5 + i
        obs = np.random.default_rng(i).normal(i, 2, size=(steps + 1, 3))
        obs[:, 0] = i
        buffers.append(episode(i, steps, observations=obs, rewards=np.full(steps, i / steps)))
    make_minari(buffers)


def numbers(transitions: Transitions) -> set[int]:
    return set(transitions.obs[:, 0].astype(int).tolist())


def test_the_split_is_by_whole_episodes_without_leak() -> None:
    module = OfflineDataModule(NAME, held_out=0.3)
    train, held_out = module.train, module.held_out_transitions
    assert numbers(train).isdisjoint(numbers(held_out))
    assert numbers(train) | numbers(held_out) == set(range(20))
    assert (train.n_episodes, held_out.n_episodes) == (14, 6)
    raw, _ = load_dataset(NAME)
    assert len(train) + len(held_out) == len(raw)
    packed = module.scaling.obs_mean[0] + module.train_matrix[:, 0] * module.scaling.obs_std[0]
    assert set(packed.round().int().tolist()) == numbers(train)
    packed = module.scaling.obs_mean[0] + module.held_out_matrix[:, 0] * module.scaling.obs_std[0]
    assert set(packed.round().int().tolist()) == numbers(held_out)


def test_the_split_follows_its_seed() -> None:
    splits = [
        numbers(OfflineDataModule(NAME, split_seed=s).held_out_transitions) for s in (0, 0, 1)
    ]
    assert splits[0] == splits[1] != splits[2]


def test_at_least_one_episode_is_held_out_and_one_trained_on() -> None:
    assert OfflineDataModule(NAME, held_out=0.001).held_out_transitions.n_episodes == 1
    assert OfflineDataModule(NAME, held_out=0.999).train.n_episodes == 1
    assert OfflineDataModule(NAME, held_out=0.0).held_out_transitions.n_episodes == 0


def test_a_single_episode_is_all_trained_on(caplog: pytest.LogCaptureFixture) -> None:
    make_minari([episode(0, 6)], "tests/one-v0")
    module = OfflineDataModule("tests/one-v0")
    module.setup("fit")
    assert (len(module.train), len(module.held_out_transitions)) == (6, 0)
    assert module.val_dataloader() == []
    assert "none held out" in caplog.text


def test_statistics_come_from_the_training_split_alone() -> None:
    module = OfflineDataModule(NAME, held_out=0.4)
    obs = module.train.obs.astype(np.float64)
    np.testing.assert_allclose(module.scaling.obs_mean, obs.mean(0), rtol=1e-5)
    np.testing.assert_allclose(module.scaling.obs_std, obs.std(0) + 1e-3, rtol=1e-5)
    off = OfflineDataModule(NAME, normalize_obs=False).scaling
    assert off.obs_mean.tolist() == [0, 0, 0]
    assert off.obs_std.tolist() == [1, 1, 1]


def test_statistics_do_not_depend_on_the_size_of_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = OfflineDataModule(NAME)
    matrix, mean = whole.train_matrix, whole.scaling.obs_mean
    monkeypatch.setattr("lit_offrl.data.packing.CHUNK", 7)
    chunked = OfflineDataModule(NAME)
    torch.testing.assert_close(chunked.scaling.obs_mean, mean)
    torch.testing.assert_close(chunked.train_matrix, matrix)


def test_packed_rows_are_the_scaled_transitions() -> None:
    module = OfflineDataModule(
        NAME, reward_scale=2.0, reward_shift=-1.0, extras=("mc_return", "truncated"), discount=0.9
    )
    batch, train, scaling = module.layout.unpack(module.train_matrix), module.train, module.scaling
    torch.testing.assert_close(
        batch.obs * scaling.obs_std + scaling.obs_mean, torch.from_numpy(train.obs)
    )
    torch.testing.assert_close(
        batch.next_obs * scaling.obs_std + scaling.obs_mean, torch.from_numpy(train.next_obs)
    )
    torch.testing.assert_close(scaling.unscale_action(batch.action), torch.from_numpy(train.action))
    assert batch.action.abs().max() <= 1
    torch.testing.assert_close(batch.reward, 2 * torch.from_numpy(train.reward) - 1)
    assert batch.terminated.bool().tolist() == train.terminated.tolist()
    assert batch.truncated is not None
    assert batch.mc_return is not None
    assert batch.truncated.bool().tolist() == train.truncated.tolist()
    ends = train.episode_bounds[1:] - 1
    lowest = 2 * module._loaded[0].reward.min() - 1
    assert lowest < 0
    cut = torch.from_numpy(train.truncated[ends]).float()
    last = batch.reward[ends] + cut * 0.9 * lowest / (1 - 0.9)
    torch.testing.assert_close(batch.mc_return[ends], last)
    torch.testing.assert_close(batch.mc_return[ends - 1], batch.reward[ends - 1] + 0.9 * last)


@pytest.mark.parametrize(
    ("lowest", "discount", "expected"),
    [(0.5, 0.9, 0.0), (0.0, 1.0, 0.0), (-5.0, 0.99, -500.0), (-1e-9, 1.0, -1e15)],
)
def test_the_least_after_a_cut_is_the_lowest_reward_for_ever(
    lowest: float, discount: float, expected: float
) -> None:
    assert least_after_cut(lowest, discount) == pytest.approx(expected)


def test_a_failed_sparse_episode_is_worth_the_lowest_reward_for_ever() -> None:
    n = 300
    reward, flags = np.full(n, -5, np.float32), np.zeros(n, bool)
    obs, cut = np.zeros((n, 1), np.float32), np.arange(n) == n - 1
    log = Transitions(obs, obs, reward, obs, flags, cut, np.zeros(n, np.int64))
    togo = log.mc_returns(0.99, least_after_cut(-5.0, 0.99))
    np.testing.assert_allclose(togo, -500.0, rtol=1e-6)
    over = replace(log, terminated=cut, truncated=flags)
    assert over.mc_returns(0.99, -500.0)[-1] == -5


def test_the_reward_range_scales_training_returns_to_it() -> None:
    module = OfflineDataModule(NAME, reward_range=1000.0, reward_scale=0.5, reward_shift=-1.0)
    returns = module.train.returns()
    assert module.scaling.reward_scale == pytest.approx(500 / (returns.max() - returns.min()))
    assert module.scaling.reward_shift == -1.0


def test_the_best_training_episodes_are_kept() -> None:
    held_out = numbers(OfflineDataModule(NAME).held_out_transitions)
    module = OfflineDataModule(NAME, top_fraction=0.25)
    expected = [i for i in reversed(range(20)) if i not in held_out][:5]  # return = number
    assert numbers(module.train) == set(expected)
    assert numbers(module.held_out_transitions) == held_out
    np.testing.assert_allclose(module.scaling.obs_mean, module.train.obs.mean(0), rtol=1e-5)


def test_discrete_actions_keep_their_index() -> None:
    space = spaces.Discrete(3, start=5)
    make_minari(
        [episode(i, 9, action_space=space) for i in range(4)], "tests/d-v0", action_space=space
    )
    module = OfflineDataModule("tests/d-v0")
    batch = module.layout.unpack(module.train_matrix)
    assert batch.action.dtype == torch.int64
    assert batch.action.tolist() == module.train.action.tolist()
    assert module.scaling.action_low is None
    assert (module.action_dim, module.discrete) == (3, True)


def test_the_held_out_batches_are_few_and_spread_over_all_episodes() -> None:
    module = OfflineDataModule(NAME, batch_size=2, held_out=0.5)
    batches: list[Any] = list(module.val_dataloader())
    assert len(batches) == 20
    assert batches[0].shape == (1, 2, module.layout.width)
    mean, std = module.scaling.obs_mean[0], module.scaling.obs_std[0]
    seen = torch.cat([batch[0, :, 0] for batch in batches]) * std + mean
    assert set(seen.round().int().tolist()) == numbers(module.held_out_transitions)


class Recorder(LightningModule):
    """Counts updates as the algorithms do, and keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.batches: list[Batch] = []
        self.held_out: list[Batch] = []

    def training_step(self, batch: Batch) -> None:
        for k in range(len(batch.reward)):
            self.batches.append(batch.at(k))
            progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
            progress.increment_ready()
            progress.increment_completed()

    def validation_step(self, batch: Batch) -> None:
        self.held_out.append(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters())


def fit(
    path: Path, module: OfflineDataModule, ckpt: Path | None = None, **options: Any
) -> Recorder:
    recorder = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        max_epochs=-1,
        **options,
    )
    trainer.fit(recorder, module, ckpt_path=ckpt, weights_only=True)
    trainer.save_checkpoint(path)
    assert trainer.global_step == options["max_steps"]
    return recorder


def rewards(recorder: Recorder) -> torch.Tensor:
    return torch.stack([batch.reward for batch in recorder.batches])


def test_a_trainer_gets_the_same_updates_whatever_k_and_wherever_resumed(tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        one = fit(
            tmp_path / "one.ckpt",
            OfflineDataModule(NAME, 16, updates_per_step=1, updates_per_epoch=10),
            max_steps=25,
        )
    assert not any("workers" in str(w.message) or "sampler" in str(w.message) for w in caught)
    assert rewards(one).shape == (25, 16)
    assert len(one.held_out) >= 2
    many = fit(
        tmp_path / "many.ckpt",
        OfflineDataModule(NAME, 16, updates_per_step=8, updates_per_epoch=10),
        max_steps=13,
    )
    assert rewards(many).equal(rewards(one)[:13])
    resumed = fit(
        tmp_path / "resumed.ckpt",
        OfflineDataModule(NAME, 16, updates_per_step=4, updates_per_epoch=10),
        tmp_path / "many.ckpt",
        max_steps=25,
    )
    assert rewards(resumed).equal(rewards(one)[13:])


def test_training_without_held_out_episodes_validates_nothing(tmp_path: Path) -> None:
    module = OfflineDataModule(NAME, 16, held_out=0.0, updates_per_epoch=5)
    assert fit(tmp_path / "a.ckpt", module, max_steps=6).held_out == []


def test_the_seed_is_seed_everything_s_and_then_the_checkpoint_s(tmp_path: Path) -> None:
    seed_everything(7)
    module = OfflineDataModule(NAME, 16)
    first = fit(tmp_path / "a.ckpt", module, max_steps=4)
    assert module.seed == 7
    seed_everything(8)
    other = OfflineDataModule(NAME, 16)
    fit(tmp_path / "b.ckpt", other, tmp_path / "a.ckpt", max_steps=6)
    assert other.seed == 7
    assert not rewards(fit(tmp_path / "c.ckpt", OfflineDataModule(NAME, 16), max_steps=4)).equal(
        rewards(first)
    )


def test_the_state_is_plain_and_gives_back_the_scaling(tmp_path: Path) -> None:
    module = OfflineDataModule(NAME)
    torch.save(module.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    scaling = Scaling.from_dict(state["scaling"])
    assert scaling.obs_mean.equal(module.scaling.obs_mean)
    OfflineDataModule(NAME).load_state_dict(state)


def test_a_checkpoint_of_other_data_split_or_scaling_is_refused() -> None:
    state = OfflineDataModule(NAME).state_dict()
    make_minari([episode(i, 5) for i in range(4)], "tests/other-v0")
    for module, message in [
        (OfflineDataModule("tests/other-v0"), "trained on `tests/small-v0`"),
        (OfflineDataModule(NAME, split_seed=1), "`split_seed` 0, not 1"),
        (OfflineDataModule(NAME, held_out=0.2), "`held_out` 0.1, not 0.2"),
        (OfflineDataModule(NAME, normalize_obs=False), "another scaling"),
        (OfflineDataModule(NAME, reward_scale=2.0), "another scaling"),
    ]:
        with pytest.raises(InputError, match=message):
            module.load_state_dict(state)


def test_a_batch_size_that_does_not_divide_by_the_devices_is_refused() -> None:
    module = OfflineDataModule(NAME, batch_size=7)
    trainer: Any = type("Ranks", (), {"global_rank": 1, "world_size": 2})()
    module.trainer = trainer
    with pytest.raises(InputError, match="does not divide by 2 devices"):
        module.train_dataloader()


def test_the_logged_transitions_keep_what_top_fraction_leaves_out() -> None:
    whole = OfflineDataModule(NAME, held_out=0.25)
    best = OfflineDataModule(NAME, held_out=0.25, top_fraction=0.4)
    assert np.array_equal(best.logged.reward, whole.train.reward)
    assert best.train.n_episodes < best.logged.n_episodes == whole.train.n_episodes


@pytest.mark.parametrize("discrete", [False, True])
def test_rows_know_the_action_that_followed(discrete: bool, tmp_path: Path) -> None:
    kind: Any = spaces.Discrete(5) if discrete else ACTION
    episodes = [episode(i, n, action_space=kind) for i, n in enumerate((4, 3, 5))]
    make_minari(episodes, "tests/following-v0", action_space=kind)
    data = OfflineDataModule(
        "tests/following-v0", held_out=0, extras=("has_next_action", "next_action")
    )
    rows = data.layout.unpack(data.train_matrix)
    assert rows.has_next_action is not None and rows.next_action is not None
    last = [3, 6, 11]
    assert [i for i, has in enumerate(rows.has_next_action.tolist()) if not has] == last
    for i in range(12):
        if i not in last:
            assert torch.equal(rows.next_action[i], rows.action[i + 1])
    assert rows.next_action.dtype == rows.action.dtype
