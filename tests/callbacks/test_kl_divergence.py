import json
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lit_offrl.algorithms import BC, BCQ, CQL, DQN, IQL, TD3BC, DiscreteCQL
from lit_offrl.algorithms.pex import PEX
from lit_offrl.batch import Batch
from lit_offrl.data import OfflineDataModule
from lit_offrl.data.builtin import gridworld
from lit_offrl.errors import InputError
from lit_offrl.evaluation.behavior.cache import cached_behavior
from lit_offrl.evaluation.behavior.scores import score
from lit_offrl.evaluation.finding import Finding
from lit_offrl_callbacks import kl_divergence
from lit_offrl_callbacks.kl_divergence import KLDivergence
from tests.callbacks.training import data_module, fit
from tests.callbacks.two_ranks import run_on_two_ranks

SMALL: dict[str, Any] = {"obs_dim": 3, "action_dim": 1, "hidden": (8,)}


@pytest.fixture(autouse=True)
def _short_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kl_divergence, "cached_behavior", partial(cached_behavior, updates=60))


@pytest.fixture(scope="module")
def grid(minari_folder: None) -> str:
    if gridworld.DATASET_ID not in minari.list_local_datasets():  # the folder is the package's
        gridworld.make(scale=0.05)
    return gridworld.DATASET_ID


def train(
    algorithm: LightningModule, data: OfflineDataModule, *callbacks: Callback, steps: int = 10
) -> dict[str, Any]:
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


def of_policy(kl: KLDivergence) -> dict[str, Finding]:
    return {name: finding for name, finding in kl.findings.items() if name.startswith("kl_")}


@pytest.mark.parametrize("held_out", [0.25, 0.0])
@pytest.mark.parametrize(
    "make",
    [
        partial(BC, **SMALL),
        partial(BC, **SMALL, policy="tanh_gaussian"),
        partial(IQL, **SMALL),
        partial(CQL, **SMALL, critic_hidden=(8,), n_actions=2),
    ],
)
def test_policies_with_a_density_get_all_but_support(make: Any, held_out: float) -> None:
    kl = KLDivergence(rows=300)
    logged = train(make(), data_module(held_out), kl)
    found = of_policy(kl)
    assert set(found) == {"kl_behavior", "kl_coverage", "kl_too_close"}
    assert found["kl_behavior"].interval is not None
    assert logged["kl/behavior"] == pytest.approx(found["kl_behavior"].value)
    assert logged["kl/coverage"] == pytest.approx(found["kl_coverage"].value)
    assert logged["kl/too_close"] == pytest.approx(found["kl_too_close"].value)
    assert "verdict/kl_behavior" in logged
    assert {"behavior_pit", "behavior_self_kl"} <= set(kl.findings)


@pytest.mark.parametrize(
    "make", [partial(TD3BC, **SMALL), partial(BCQ, **SMALL, vae_hidden=(8,)), partial(PEX, **SMALL)]
)
def test_policies_without_a_density_get_support_and_the_reason(make: Any) -> None:
    kl = KLDivergence(rows=300)
    logged = train(make(), data_module(), kl)
    found = of_policy(kl)
    assert set(found) == {"kl_behavior", "kl_support", "kl_too_close"}
    assert (found["kl_behavior"].verdict, found["kl_behavior"].value) == ("not applicable", None)
    assert "no density" in found["kl_behavior"].meaning
    assert found["kl_support"].value is not None
    assert "of a random action" in found["kl_support"].meaning
    assert "kl/behavior" not in logged and logged["verdict/kl_behavior"] == -1
    assert logged["kl/support"] == pytest.approx(found["kl_support"].value)


def test_a_greedy_discrete_policy_is_compared_with_the_counts_of_the_log(grid: str) -> None:
    data = OfflineDataModule(grid, batch_size=16, updates_per_epoch=10, held_out=0.2)
    kl = KLDivergence(rows=100_000)
    algorithm = DQN(data.obs_dim, data.action_dim, hidden=(8,))
    train(algorithm, data, kl)
    found = of_policy(kl)
    assert set(found) == {"kl_behavior", "kl_coverage", "kl_support", "kl_too_close"}
    train_rows, held_out = data.train, data.held_out_transitions
    counts = np.full((data.obs_dim, data.action_dim), 1e-3)
    actions = train_rows.action.astype(np.int64)
    np.add.at(counts, (train_rows.obs.argmax(-1), actions), 1)
    probs = counts / counts.sum(-1, keepdims=True)
    state = held_out.obs.argmax(-1)
    obs = data.scaling.normalize_obs(torch.from_numpy(held_out.obs))
    chosen = algorithm.act(obs).numpy()
    bits = -np.log2(probs[state, chosen])
    assert found["kl_behavior"].value == pytest.approx(bits.mean(), rel=1e-5)
    support = bits + np.log2(probs.max(-1)[state])
    assert found["kl_support"].value == pytest.approx(support.mean(), rel=1e-5)
    half = 1.96 * bits.std(ddof=1) / math.sqrt(len(bits))
    assert found["kl_behavior"].interval == pytest.approx(
        (bits.mean() - half, bits.mean() + half), rel=1e-5
    )
    missed = np.mean(chosen != held_out.action)
    assert f"{missed:.1%} of the logged" in found["kl_coverage"].meaning


class Foreign(LightningModule):
    """Someone's own module: draws at random when it acts, and takes gradients with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1))

    def act(self, obs: Tensor) -> Tensor:
        mean: Tensor = self.net(obs)
        return (mean + 0.1 * torch.randn_like(mean)).clamp(-1, 1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        row = batch.at(0)
        loss: Tensor = (self.net(row.obs) - row.action).square().mean()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@pytest.mark.parametrize(
    "make", [Foreign, partial(IQL, **SMALL), partial(BCQ, **SMALL, vae_hidden=(8,))]
)
def test_diagnosing_does_not_change_what_is_trained(make: Any) -> None:
    weights = []
    for callbacks in ([], [kl := KLDivergence(rows=50)]):
        torch.manual_seed(0)
        algorithm = make()
        train(algorithm, data_module(), *callbacks, steps=25)
        weights.append(algorithm.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert len(kl.history) > 0
    assert of_policy(kl)


def test_a_foreign_module_that_only_acts_is_judged_by_its_support() -> None:
    kl = KLDivergence(rows=50)
    train(Foreign(), data_module(), kl)
    assert set(of_policy(kl)) == {"kl_behavior", "kl_support", "kl_too_close"}


def test_the_draws_are_the_same_at_each_diagnosis() -> None:
    one, other = KLDivergence(rows=50), KLDivergence(rows=50)
    first = train(BC(**SMALL, lr=1e-12), data_module(), one, steps=20)
    assert one.history[0]["kl_behavior"] == pytest.approx(one.history[1]["kl_behavior"], rel=1e-4)
    torch.manual_seed(0)
    algorithm = BC(**SMALL, lr=1e-12)
    first = train(algorithm, data_module(), other)
    again = train(algorithm, data_module(), seeded := KLDivergence(rows=50, seed=1))
    assert first["kl/behavior"] != again["kl/behavior"]
    assert of_policy(seeded)


def test_findings_outlive_an_interruption(tmp_path: Path) -> None:
    first, second = KLDivergence(rows=50), KLDivergence(rows=50)
    fit(data_module(), first, ModelCheckpoint(tmp_path, "{step}"), steps=10)
    path = tmp_path / "step=10.ckpt"
    fit(data_module(), second, ModelCheckpoint(tmp_path, "{step}"), steps=20, path=path)
    assert [point["update"] for point in second.history] == [10, 20]
    assert second.history[0] == first.history[0]
    again = KLDivergence()
    again.load_state_dict(json.loads(json.dumps(second.state_dict())))
    assert again.findings == second.findings


def test_thresholds_are_per_dimension_only_where_there_are_several() -> None:
    kl = KLDivergence(per_dimension=(1e-9, 1e-8), total=(1e6, 1e6))
    train(BC(**SMALL), data_module(), kl)
    assert kl.findings["kl_behavior"].verdict == "ok"  # one dimension: totals


def test_wrong_settings_are_input_errors() -> None:
    with pytest.raises(InputError, match="`rows`"):
        KLDivergence(rows=0)
    for wrong in ((0.0, 1.0), (2.0, 1.0)):
        with pytest.raises(InputError, match="`total`"):
            KLDivergence(total=wrong)
        with pytest.raises(InputError, match="`per_dimension`"):
            KLDivergence(per_dimension=wrong)
    with pytest.raises(InputError, match="OfflineDataModule"):
        KLDivergence().setup(Trainer(accelerator="cpu", logger=False), BC(**SMALL), "fit")

    class Mute(LightningModule):
        pass

    trainer = Trainer(accelerator="cpu", logger=False)
    trainer.datamodule = data_module()  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="no `policy"):
        KLDivergence().setup(trainer, Mute(), "fit")


@pytest.mark.slow
def test_two_ranks_find_what_one_does(tmp_path: Path) -> None:
    one, two = run_on_two_ranks("kl", tmp_path)
    for found in two:
        assert found.keys() == one.keys()
        for name, finding in found.items():
            assert finding["verdict"] == one[name]["verdict"]
            for part in ("value", "interval"):
                if one[name][part] is None:
                    assert finding[part] is None
                else:
                    assert finding[part] == pytest.approx(one[name][part], rel=1e-6)


# Drills: what must fire, and the twin where it must not.


def stochastic_clone(data: OfflineDataModule) -> OfflineDataModule:
    """Replace the logged actions by draws of tanh N(0.8 s_1, 0.4²)."""
    transitions, spec = data._loaded
    rng = np.random.default_rng(0)
    mean = 0.8 * transitions.obs[:, :1]
    action = 2 * np.tanh(mean + 0.4 * rng.standard_normal(mean.shape)).astype(np.float32)
    rows = np.arange(len(transitions))
    transitions = replace(  # few episodes never condemn a behavior policy
        transitions, action=action, episode=rows // 20, truncated=rows % 20 == 19
    )
    data.__dict__["_loaded"] = transitions, spec
    return data


@pytest.mark.slow
def test_a_clone_is_called_one_and_another_policy_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kl_divergence, "cached_behavior", partial(cached_behavior, updates=1500))
    torch.manual_seed(0)
    bc = BC(3, 1, policy="tanh_gaussian", hidden=(64,), lr=1e-3)
    clone = KLDivergence(every_n_epochs=1000)
    train(bc, stochastic_clone(data_module()), clone, steps=2000)
    behavior, close = clone.findings["kl_behavior"], clone.findings["kl_too_close"]
    floor = clone.findings["behavior_self_kl"].value
    assert behavior.value is not None and floor is not None
    assert (behavior.verdict, close.verdict) == ("ok", "watch")
    assert behavior.value - floor < 0.02
    other, far = KLDivergence(every_n_epochs=1000), BC(3, 1, policy="tanh_gaussian", hidden=(64,))
    far.get_parameter("policy.net.2.bias").data[0] += 3  # seven deviations of the behavior
    train(far, stochastic_clone(data_module()), other)
    assert other.findings["kl_too_close"].verdict == "ok"
    assert other.findings["kl_behavior"].verdict == "fail"


@pytest.mark.slow
def test_a_behavior_policy_of_shuffled_actions_is_not_trusted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(*args: Any, **options: Any) -> Any:
        """A model fitted to actions of other rows, judged on the true ones."""
        transitions, scaling, spec = args
        order = np.random.default_rng(0).permutation(len(transitions))
        shuffled = replace(transitions, action=transitions.action[order])
        model = cached_behavior(shuffled, scaling, spec, updates=1500, **options)
        obs = scaling.normalize_obs(torch.from_numpy(transitions.obs))
        action = scaling.scale_action(torch.from_numpy(transitions.action)).clamp(-1, 1)
        scores = score(model.policy, obs, action, n_episodes=transitions.n_episodes)
        return replace(model, scores=scores)

    for fitted, trusted in (
        (wrong, False),
        (partial(cached_behavior, updates=1500), True),
    ):
        monkeypatch.setattr(kl_divergence, "cached_behavior", fitted)
        kl = KLDivergence()
        train(BC(3, 1, policy="tanh_gaussian", hidden=(8,)), stochastic_clone(data_module()), kl)
        untrusted = "Not to be trusted" in kl.findings["kl_behavior"].meaning
        assert untrusted != trusted
        assert (kl.findings["kl_behavior"].verdict == "not applicable") != trusted


@pytest.mark.slow
def test_a_weight_of_1000_clones_and_none_does_not(grid: str) -> None:
    verdicts, excess = [], []
    for cql_alpha in (1000.0, 0.0):
        data = OfflineDataModule(grid, batch_size=64, updates_per_epoch=1500, held_out=0.2)
        torch.manual_seed(0)
        kl = KLDivergence()
        algorithm = DiscreteCQL(
            data.obs_dim, data.action_dim, (64,), lr=1e-3, cql_alpha=cql_alpha, discount=0.95
        )
        train(algorithm, data, kl, steps=3000)
        verdicts.append(kl.findings["kl_too_close"].verdict)
        excess.append(kl.findings["kl_too_close"].value)
    assert verdicts == ["watch", "ok"], excess
