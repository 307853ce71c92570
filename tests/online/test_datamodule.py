from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from lit_offrl.algorithms.rlpd import RLPD
from lit_offrl.errors import InputError
from lit_offrl.online.datamodule import Collecting
from lit_offrl.online.exploration import Exploration
from lit_offrl.online.mixing import Mixing
from tests.online.runs import fit, make_data, make_model


@pytest.mark.parametrize(
    ("utd", "envs", "k"), [(1.0, 1, 1), (4.0, 1, 4), (0.5, 1, 1), (2.0, 3, 6), (0.25, 2, 1)]
)
def test_updates_keep_their_ratio_to_steps(utd: float, envs: int, k: int) -> None:
    collecting = Collecting(steps=1000, utd=utd, num_envs=envs, warmup_steps=100)
    assert collecting.updates_per_step == k
    assert collecting.updates == 900 * utd
    assert collecting.steps_before(0) == 100 + int(np.ceil(1 / utd))
    assert collecting.steps_before(collecting.updates - 1) == 1000
    assert collecting.updates_per_epoch == 5000 * utd


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "`steps`"),
        ({"utd": 0.0}, "`utd`"),
        ({"warmup_steps": -1}, "`warmup_steps`"),
        ({"steps": 50, "random_steps": 50}, "before its first update at step 51"),
        ({"steps": 50, "utd": 0.002}, "before its first update at step 500"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Collecting(**settings)


class Watch(Callback):
    """Notes what stood in the buffer and in the batch at each update."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, int]] = []  # update, environment steps, updates at once
        self.weights: list[float] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int
    ) -> None:
        data = trainer.datamodule  # type: ignore[attr-defined]
        self.seen.append((trainer.global_step, data.env_steps, len(batch.reward)))  # type: ignore[attr-defined]


def test_the_environments_are_stepped_just_before_the_updates_that_need_it(tmp_path: Path) -> None:
    watch, data = Watch(), make_data(tmp_path, warmup_steps=20)
    fit(data, make_model(data), watch)
    assert watch.seen == [(2 * i, 22 + 2 * i, 2) for i in range(30)]
    assert data.env_steps == 80 and data.buffer.count == 80
    assert [episode.length for episode in data.episodes.finished] == [30, 30]


def test_collected_rows_are_scaled_as_the_log_is(tmp_path: Path) -> None:
    data = make_data(tmp_path, extras=("mc_return",))
    fit(data, make_model(data))
    own, log = (data.layout.unpack(m) for m in (data.buffer.rows[:60], data.train_matrix))
    assert own.action.abs().max() <= 1
    for name in ("obs", "reward", "mc_return"):
        one, other = getattr(own, name), getattr(log, name)
        assert other.min() - 1 < one.min() and one.max() < other.max() + 1
    torch.testing.assert_close(own.next_obs[:-2], own.obs[2:], atol=0.0, rtol=0.0)


def test_random_steps_are_uniform_and_the_policy_acts_after_them(tmp_path: Path) -> None:
    exploration = Exploration(sample_scale=0.0)
    data = make_data(tmp_path, exploration=exploration, random_steps=60)
    model = make_model(data)
    fit(data, model)
    batch = data.layout.unpack(data.buffer.rows[:80])
    assert batch.action[:60].std() == pytest.approx(1 / 3**0.5, rel=0.2)
    assert len(set(batch.action[:60].flatten().tolist())) == 60  # each step draws anew
    # the first update comes after step 62: until then the policy is the offline one
    assert data.offline is not None
    torch.testing.assert_close(batch.action[60:62], data.offline.act(batch.obs[60:62]))
    assert (batch.action[78:80] - data.offline.act(batch.obs[78:80])).abs().max() > 1e-6


def test_the_policy_trained_offline_acts_while_the_run_warms_up(tmp_path: Path) -> None:
    data = make_data(tmp_path, exploration=Exploration(sample_scale=0.0), warmup_steps=40)
    model = make_model(data)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5)
    fit(data, model)
    batch = data.layout.unpack(data.buffer.rows[:80])
    assert data.offline is not None
    torch.testing.assert_close(batch.action[:40], data.offline.act(batch.obs[:40]))
    assert (batch.action[40:42] - data.offline.act(batch.obs[40:42])).abs().max() > 0.01


def test_exploration_that_the_policies_cannot_do_is_refused_before_it_begins(
    tmp_path: Path,
) -> None:
    data = make_data(tmp_path, exploration=Exploration(kl_budget=1.0))
    model = RLPD(data.obs_dim, data.action_dim, hidden=(8,), critic_hidden=(8,))
    with pytest.raises(InputError, match="two policies of one kind"):
        fit(data, model)
    assert data.env_steps == 0


def test_without_the_log_batches_hold_what_was_collected_alone(tmp_path: Path) -> None:
    data = make_data(tmp_path, mixing=Mixing(0.0))
    fit(data, make_model(data))
    batch = data._sampler.batch(0, 0.0)
    rows = {tuple(row.tolist()) for row in data.buffer.rows[:80]}
    assert {tuple(row.tolist()) for row in batch} <= rows


class SaveAt(Callback):
    """Saves a checkpoint after an update, and stops there."""

    def __init__(self, update: int, path: Path) -> None:
        self.update, self.path = update, path

    def on_train_batch_end(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.update:
            trainer.save_checkpoint(self.path)
            raise KeyboardInterrupt


@pytest.mark.parametrize("extras", [(), ("mc_return",)])
@pytest.mark.parametrize("update", [26, 40, 66])
def test_a_run_that_was_cut_ends_as_the_whole_one(
    tmp_path: Path, update: int, extras: tuple[str, ...]
) -> None:
    whole = make_data(tmp_path / "whole", extras=extras)
    model = make_model(whole)
    fit(whole, model)

    data, path = make_data(tmp_path / "cut", extras=extras), tmp_path / "cut.ckpt"
    with pytest.raises(SystemExit):
        fit(data, make_model(data), SaveAt(update, path))
    data = make_data(tmp_path / "cut", extras=extras)
    resumed = make_model(data)
    fit(data, resumed, path=path)

    assert torch.equal(data.buffer.rows[:80], whole.buffer.rows[:80])
    assert data.episodes.finished == whole.episodes.finished
    for one, other in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_another_log_is_refused(tmp_path: Path) -> None:
    data = make_data(tmp_path)
    data.known_spec = replace(data.known_spec, content_hash="0123456789")
    with pytest.raises(InputError, match=r"is not the log that the policy was trained on"):
        fit(data, make_model(data))


def test_an_offline_checkpoint_is_refused_as_one_to_resume(tmp_path: Path) -> None:
    data = make_data(tmp_path)
    with pytest.raises(InputError, match="not one of `lit-offrl finetune`"):
        data.load_state_dict({"spec": {}})
