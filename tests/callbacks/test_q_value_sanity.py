import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lit_offrl.algorithms import BC, BCQ, CQL, IQL, RLPD
from lit_offrl.batch import Batch
from lit_offrl.data import OfflineDataModule
from lit_offrl.errors import InputError
from lit_offrl.evaluation.diagnosis.q_sanity import QThresholds
from lit_offrl_callbacks.q_value_sanity import QValueSanity
from tests.callbacks.training import data_module
from tests.callbacks.two_ranks import run_on_two_ranks

EARLY = QThresholds(burn_in=0)
pytestmark = pytest.mark.filterwarnings(
    "ignore:You passed in a `val_dataloader`", "ignore:Be aware that when using `ckpt_path`"
)
SMALL: dict[str, Any] = {"obs_dim": 3, "action_dim": 1, "hidden": (8,), "discount": 0.5}


class Foreign(LightningModule):
    """Fitted Q of the logged actions by someone who never heard of this library's base class."""

    def __init__(self, discount: float = 0.5) -> None:
        super().__init__()
        self.discount = discount
        self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 1))
        self.drawn: list[float] = []

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        value: Tensor = self.net(torch.cat([obs, action], -1))
        return value.mT

    def act(self, obs: Tensor) -> Tensor:
        return torch.rand(len(obs), 1) * 2 - 1

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self.drawn.append(torch.rand(()).item())
        row = batch.at(0)
        return (self.q_values(row.obs, row.action) - row.reward).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def train(
    module: LightningModule,
    *callbacks: Callback,
    data: OfflineDataModule | None = None,
    steps: int = 25,
    path: Any = None,
) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data_module() if data is None else data, ckpt_path=path, weights_only=True)
    return trainer


def verdicts(sanity: QValueSanity) -> dict[str, str]:
    return {name: finding.verdict for name, finding in sanity.findings.items()}


COMMON = {
    "q_nan",
    "q_bounds",
    "q_vs_mc",
    "q_policy_gap",
    "q_ood_gap",
    "q_sign",
    "q_td_error",
    "q_disagreement",
    "q_constant",
    "q_drift",
    "q_rank",
    "q_coadaptation",
}


@pytest.mark.parametrize(
    ("make", "special"),
    [
        (IQL, {"awr_weights"}),
        (lambda **o: CQL(critic_hidden=(8,), n_actions=2, **o), {"cql_trend"}),
    ],
)
def test_each_algorithm_gets_its_findings(make: Any, special: set[str]) -> None:
    sanity = QValueSanity(rows=40)
    trainer = train(make(**SMALL), sanity)
    assert set(sanity.findings) == COMMON | special
    assert [point["update"] for point in sanity.trend] == [10, 20, 25]
    assert sanity.findings["q_constant"].meaning == "Not judged before update 5,000."
    for finding in sanity.findings.values():
        assert finding.value is None or math.isfinite(finding.value)
        assert "nan" not in finding.meaning.replace("NaN", "")
    assert trainer.callback_metrics["q/rank"] == sanity.findings["q_rank"].value
    assert trainer.callback_metrics["verdict/q_nan"] == 0


def test_an_algorithm_without_critic_gets_one_finding_and_no_number() -> None:
    sanity = QValueSanity()
    trainer = train(BC(3, 1, hidden=(8,)), sanity)
    assert verdicts(sanity) == {"q_values": "not applicable"}
    assert "learns no critic" in sanity.findings["q_values"].meaning
    assert not [name for name in trainer.callback_metrics if name.startswith("q/")]


@pytest.mark.parametrize("held_out", [0.25, 0.0])
def test_any_module_with_the_face_is_diagnosed(held_out: float) -> None:
    sanity = QValueSanity(rows=40, thresholds=EARLY)
    module = Foreign()
    data = data_module(held_out)
    data.updates_per_step = 1
    train(module, sanity, data=data)
    assert set(sanity.findings) == COMMON
    assert sanity.findings["q_rank"].verdict == "not applicable"
    assert sanity.findings["q_coadaptation"].verdict == "not applicable"
    assert sanity.findings["q_disagreement"].verdict == "not applicable"
    assert (sanity.findings["q_td_error"].value is not None) == (held_out > 0)
    assert module.training


def test_diagnosing_changes_nothing_in_training() -> None:
    """Neither weights nor the random numbers of a module that draws as it likes, dropout too."""
    results = []
    for callbacks in ([], [QValueSanity()]):
        torch.manual_seed(0)
        module = Foreign()
        data = data_module()
        data.updates_per_step = 1
        train(module, *callbacks, data=data)
        results.append((module.drawn, module.state_dict()))
    (drawn, without), (same_drawn, with_sanity) = results
    assert drawn == same_drawn
    assert all(torch.equal(without[key], with_sanity[key]) for key in without)


@pytest.mark.parametrize("make", [IQL, lambda **o: BCQ(vae_hidden=(8,), **o)])
def test_diagnosing_leaves_the_weights_of_algorithms_alone(make: Any) -> None:
    weights = []
    for callbacks in ([], [QValueSanity(rows=50)]):
        torch.manual_seed(0)
        module = make(**SMALL)
        train(module, *callbacks)
        weights.append(module.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


class Still(Foreign):
    """Draws, but does not learn."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return torch.rand(()) * 0 * next(self.net.parameters()).sum()


def test_a_policy_that_draws_gives_the_same_answers_at_each_diagnosis() -> None:
    sanity = QValueSanity(rows=40)
    data = data_module()
    data.updates_per_step = 1
    train(Still(), sanity, data=data)
    assert len(sanity.trend) == 3
    assert len({point["q_policy"] for point in sanity.trend}) == 1


class Poison(Callback):
    """Write NaN into one weight after an update."""

    def __init__(self, net: nn.Module, after: int) -> None:
        self.net, self.after = net, after

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step > self.after:
            next(self.net.parameters()).data.view(-1)[0] = math.nan


@pytest.mark.parametrize("net", ["q", "policy", "v"])
def test_a_nan_fails_at_once_and_silences_the_rest(net: str) -> None:
    sanity = QValueSanity(rows=40)
    module = IQL(**SMALL)
    train(module, Poison(getattr(module, net), after=12), sanity)
    found = verdicts(sanity)
    assert found.pop("q_nan") == "fail"
    assert set(found) == COMMON - {"q_nan"} | {"awr_weights"}
    assert set(found.values()) == {"not applicable"}
    assert [point["q_nan"] for point in sanity.history] == [0, 1, 1]
    assert len(sanity.trend) == 1


def test_a_nan_in_a_parameter_that_no_answer_shows_fails_too() -> None:
    module = Still()
    module.unused = nn.Parameter(torch.tensor([1.0, -math.inf]))
    sanity = QValueSanity(rows=40)
    data = data_module()
    data.updates_per_step = 1
    train(module, sanity, data=data, steps=10)
    assert sanity.findings["q_nan"].verdict == "fail"


def test_the_trend_goes_on_after_a_checkpoint(tmp_path: Path) -> None:
    limits = QThresholds(burn_in=1)
    whole = QValueSanity(rows=40, thresholds=limits)
    keep = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, save_weights_only=False)
    torch.manual_seed(0)
    train(IQL(**SMALL), whole, keep, steps=60)
    assert whole.findings["q_drift"].verdict == "ok"

    resumed = QValueSanity(rows=40, thresholds=limits)
    train(IQL(**SMALL), resumed, steps=60, path=tmp_path / "step=30.ckpt")
    assert [point["update"] for point in resumed.trend] == [10, 20, 30, 40, 50, 60]
    assert resumed.trend == whole.trend
    assert resumed.findings == whole.findings
    assert resumed.history == whole.history


class Oracle(Still):
    """Knows the transformed reward, r' = 4 r - 6, of rewards r = s_1 + 2 s_2 + 3 s_3 + 0.5."""

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        reward = obs @ torch.tensor([1.0, 2.0, 3.0]) + 0.5
        return (4 * reward - 6).unsqueeze(0)


def test_values_are_in_raw_units_whatever_the_scale_and_shift() -> None:
    weights = np.array([1, 2, 3], np.float32)
    data = edited(reward=lambda t: t.obs @ weights + np.float32(0.5))
    data.normalize_obs, data.updates_per_step = False, 1
    data.reward_scale, data.reward_shift = 4.0, -6.0
    sanity = QValueSanity(thresholds=EARLY)
    train(Oracle(discount=0.0), sanity, data=data)
    found = sanity.findings
    assert found["q_vs_mc"].value == pytest.approx(0, abs=1e-5)
    assert found["q_bounds"].value == 0
    assert found["q_td_error"].meaning.startswith("TD errors average")
    largest = data.held_out_transitions.reward.max() - 6 / 4
    assert found["q_sign"].value == pytest.approx(largest, rel=1e-5)
    assert f"rewards go down to {data.train.reward.min() - 6 / 4:.4g}" in found["q_sign"].meaning


def test_entropy_bonuses_widen_the_bounds_of_values() -> None:
    data = data_module()
    data.reward_scale = 2.0
    meanings = []
    for backup in (False, True):
        sanity = QValueSanity(rows=40)
        rlpd = RLPD(3, 1, hidden=(8,), critic_hidden=(8,), discount=0.5, entropy_backup=backup)
        train(rlpd, sanity, data=data)
        found = re.search(r"outside \[(\S+), (\S+)\]", sanity.findings["q_bounds"].meaning)
        assert found is not None
        meanings.append(found.groups())
    widened = rlpd.log_alpha_entropy().exp().item() * math.log(2) / 0.5 / 2
    (low, high), (lower, higher) = [tuple(map(float, pair)) for pair in meanings]
    assert low - lower == pytest.approx(widened, abs=0.02)  # as printed
    assert higher - high == pytest.approx(widened, abs=0.02)  # as printed


def edited(**columns: Any) -> OfflineDataModule:
    data = data_module()
    transitions, spec = data._loaded
    changes = {name: make(transitions) for name, make in columns.items()}
    data.__dict__["_loaded"] = replace(transitions, **changes), spec
    return data


ODD_LOGS: dict[str, Any] = {
    "constant rewards": {"reward": lambda t: np.zeros_like(t.reward)},
    "no end": {"truncated": lambda t: np.zeros_like(t.truncated)},
    "one-step episodes": {
        "terminated": lambda t: np.ones_like(t.terminated),
        "truncated": lambda t: np.zeros_like(t.truncated),
        "episode": lambda t: np.arange(len(t)),
    },
    "one-step episodes, cut": {
        "truncated": lambda t: np.ones_like(t.truncated),
        "episode": lambda t: np.arange(len(t)),
    },
    "one episode": {"episode": lambda t: np.zeros_like(t.episode)},
    "constant, cut": {
        "reward": lambda t: np.ones_like(t.reward),
        "truncated": lambda t: np.ones_like(t.truncated),
        "episode": lambda t: np.arange(len(t)),
    },
}


@pytest.mark.parametrize("case", ODD_LOGS)
@pytest.mark.parametrize("discount", [0.99, 1.0])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_odd_logs_give_reasons_and_never_nan(case: str, discount: float) -> None:
    sanity = QValueSanity(rows=40, thresholds=EARLY)
    train(IQL(**{**SMALL, "discount": discount}), sanity, data=edited(**ODD_LOGS[case]))
    assert set(sanity.findings) == COMMON | {"awr_weights"}
    for finding in sanity.findings.values():
        assert finding.value is None or math.isfinite(finding.value)
        assert " nan" not in str(finding), finding
        assert " inf" not in str(finding).replace("infinite", ""), finding
    known = case in ("one-step episodes", "constant rewards")
    if not known and discount == 1.0:
        assert "known return" in sanity.findings["q_vs_mc"].meaning


def test_what_can_never_work_fails_before_training() -> None:
    class NoCritic(Foreign):
        q_values = None  # type: ignore[assignment]

    class NoPolicy(Foreign):
        act = None  # type: ignore[assignment]

    class NoDiscount(Foreign):
        def __init__(self) -> None:
            super().__init__()
            del self.discount

    for module, word in ((NoCritic(), "q_values"), (NoPolicy(), "act"), (NoDiscount(), "discount")):
        with pytest.raises(InputError, match=f"`{word}`"):
            train(module, QValueSanity())
    with pytest.raises(InputError, match="OfflineDataModule"):
        trainer = Trainer(accelerator="cpu", max_epochs=1, callbacks=[QValueSanity()], logger=False)
        trainer.fit(Foreign(), [torch.zeros(1)])
    with pytest.raises(InputError, match="at least 1"):
        QValueSanity(rows=0)
    three_ranks: Any = SimpleNamespace(datamodule=data_module(), global_rank=0, world_size=3)
    QValueSanity(rows=3).setup(three_ranks, Foreign(), "fit")
    with pytest.raises(InputError, match="3 devices cannot share 2 rows"):
        QValueSanity(rows=2).setup(three_ranks, Foreign(), "fit")


@pytest.mark.slow
def test_two_ranks_find_what_one_does(tmp_path: Path) -> None:
    one, two = run_on_two_ranks("q_values", tmp_path)
    assert two[0] == two[1]
    assert one.keys() == two[0].keys() == COMMON | {"awr_weights"}
    for name, mine in one.items():
        theirs = two[0][name]
        assert mine["verdict"] == theirs["verdict"]
        assert (mine["value"] is None) == (theirs["value"] is None)
        if mine["value"] is not None:
            assert mine["value"] == pytest.approx(theirs["value"], rel=1e-6, abs=1e-9), name
