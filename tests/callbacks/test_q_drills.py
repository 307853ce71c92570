"""Break training on purpose: the named verdict must appear, and not in the run beside it."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Trainer
from torch import Tensor

from lit_offrl.algorithms import DQN, IQL, DiscreteCQL, DiscreteIQL, OfflineAlgorithm
from lit_offrl.batch import Batch, Layout
from lit_offrl.data import OfflineDataModule
from lit_offrl.data.builtin import cartpole, gridworld, pendulum
from lit_offrl.data.transitions import Transitions
from lit_offrl.evaluation.diagnosis.q_learning import awr_weights
from lit_offrl.evaluation.diagnosis.q_sanity import QThresholds
from lit_offrl.evaluation.finding import Finding
from lit_offrl_callbacks.q_value_sanity import QValueSanity
from tests.algorithms import chain5
from tests.algorithms.solving import solve_fixed_point

pytestmark = pytest.mark.slow
Findings = dict[str, Finding]
Patch = Callable[[Layout, Tensor], None]


@pytest.fixture(scope="module", autouse=True)
def drill_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("drills")
        patch.setenv("MINARI_DATASETS_PATH", str(folder))
        patch.setenv("LIT_OFFRL_CACHE", str(folder / "cache"))
        cartpole.make(scale=0.05)
        gridworld.make(scale=0.2)
        pendulum.make(scale=0.1)
        yield


def data_module(dataset_id: str, **options: Any) -> OfflineDataModule:
    return OfflineDataModule(dataset_id, batch_size=128, held_out=0.2, **options)


def patched(data: OfflineDataModule, transitions: Transitions) -> OfflineDataModule:
    """Replace the data of a module."""
    data.__dict__["_loaded"] = transitions, data.spec
    return data


def short_episodes(transitions: Transitions, steps: int) -> Transitions:
    """Cut episodes into truncated pieces of ``steps`` rows."""
    n = len(transitions) // steps * steps
    first = {k: None if v is None else v[:n] for k, v in vars(transitions).items()}
    end = np.arange(n) % steps == steps - 1
    cut = Transitions(**first)  # type: ignore[arg-type]
    return replace(cut, truncated=end, episode=np.arange(n) // steps)


def diagnosed(
    algorithm: OfflineAlgorithm,
    data: OfflineDataModule,
    updates: int = 1500,
    batch: Patch | None = None,
) -> Findings:
    """Train with ten diagnoses and return the last findings.

    Args:
        algorithm: What is trained.
        data: What it is trained on.
        updates: Number of updates.
        batch: Changes the packed training matrix in place, and nothing else knows.
    """
    data.updates_per_epoch = updates // 10
    if batch is not None:
        batch(data.layout, data.train_matrix)
    sanity = QValueSanity(thresholds=QThresholds(burn_in=updates // 5))
    trainer = Trainer(
        accelerator="cpu",
        max_steps=updates,
        callbacks=[sanity],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(algorithm, data)
    return sanity.findings


def alarms(findings: Findings) -> set[str]:
    return {name for name, finding in findings.items() if finding.verdict in ("watch", "fail")}


def column(layout: Layout, field: str) -> int:
    """Where a field of one number begins in the packed matrix."""
    fields = ["obs", "action", "reward", "next_obs", "terminated"]
    return sum(layout.sections[: fields.index(field)])


def multiply(field: str, factor: float) -> Patch:
    def patch(layout: Layout, matrix: Tensor) -> None:
        matrix[:, column(layout, field)] *= factor

    return patch


def dqn(data: OfflineDataModule) -> DQN:
    torch.manual_seed(0)
    return DQN(data.obs_dim, data.action_dim, (64, 64), lr=1e-3, discount=0.95, polyak=0.02)


def test_rewards_that_only_the_batches_scale_break_the_bounds() -> None:
    findings = []
    for factor in (1, 1e4):
        data = data_module("gridworld/mixed")
        findings.append(diagnosed(dqn(data), data, batch=multiply("reward", factor)))
    right, wrong = findings
    assert wrong["q_bounds"].verdict == "fail"
    assert "reward_scale" in wrong["q_bounds"].advice
    assert right["q_bounds"].verdict == "ok"
    assert not {"q_policy_gap", "q_sign", "q_drift"} & alarms(right)


class Scaled(DQN):
    """A trained critic whose values are ``factor`` times as large; it learns no more."""

    factor = 1.0

    def action_values(self, obs: Tensor) -> Tensor:
        return self.factor * super().action_values(obs)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        return {}


def test_rewards_that_all_scale_raise_no_alarm_that_the_unscaled_do_not() -> None:
    data = data_module("gridworld/mixed")
    trained = dqn(data)
    diagnosed(trained, data)
    findings = []
    for factor in (1.0, 1e4):
        data = data_module("gridworld/mixed", reward_scale=factor)
        algorithm = Scaled(data.obs_dim, data.action_dim, (64, 64), discount=0.95)
        algorithm.load_state_dict(trained.state_dict())
        algorithm.factor = factor
        findings.append(diagnosed(algorithm, data, updates=50))
    plain, scaled = findings
    assert plain.keys() == scaled.keys()
    for name, finding in plain.items():
        assert finding.verdict == scaled[name].verdict
        assert (finding.value is None) == (scaled[name].value is None)
        if finding.value is not None:
            assert scaled[name].value == pytest.approx(finding.value, rel=1e-4, abs=1e-5)
    assert not {"q_bounds", "q_policy_gap", "q_sign", "q_drift"} & alarms(scaled)


def test_terminal_flags_that_are_lost_in_the_batches_let_values_exceed_all_returns() -> None:
    findings = []
    for factor in (1, 0):
        data = data_module("cartpole/mixed")
        transitions = data._loaded[0]
        ended = transitions.terminated[transitions.episode_bounds[1:] - 1]
        patched(data, transitions.select_episodes(np.flatnonzero(ended)))
        findings.append(diagnosed(dqn(data), data, batch=multiply("terminated", factor)))
    right, wrong = findings
    assert wrong["q_vs_mc"].verdict == "fail"
    assert "exceeds 99 % of all returns" in wrong["q_vs_mc"].meaning
    assert "terminal flags" in wrong["q_vs_mc"].advice
    assert right["q_vs_mc"].verdict == "ok"
    assert right["q_bounds"].verdict == "ok"


def test_terminal_flags_that_are_lost_in_the_data_leave_returns_unknown() -> None:
    """The data then have no terminations, and short episodes tell nothing of what followed."""
    data = data_module("cartpole/mixed")
    transitions = data._loaded[0]
    brief = transitions.select_episodes(np.flatnonzero(np.diff(transitions.episode_bounds) < 50))
    verdicts = []
    for terminated in (brief.terminated, np.zeros_like(brief.terminated)):
        data = patched(data_module("cartpole/mixed"), replace(brief, terminated=terminated))
        verdicts.append(diagnosed(dqn(data), data, updates=50)["q_vs_mc"])
    right, wrong = verdicts
    assert right.verdict != "not applicable"
    assert wrong.verdict == "not applicable"
    assert wrong.meaning.startswith("Only 0 of ")


def test_truncations_marked_terminated_push_values_below_the_returns() -> None:
    findings = []
    for leak in (False, True):
        data = data_module("pendulum/mixed", reward_scale=0.02, reward_shift=2.0)
        patched(data, short_episodes(data._loaded[0], 20))
        cut = torch.from_numpy(data.train.truncated).float()

        def mark(layout: Layout, matrix: Tensor, leak: bool = leak, cut: Tensor = cut) -> None:
            if leak:
                matrix[:, column(layout, "terminated")] = cut

        torch.manual_seed(0)
        options = {"lr": 1e-3, "discount": 0.8, "polyak": 0.02}
        algorithm = IQL(data.obs_dim, data.action_dim, (64, 64), **options)  # type: ignore[arg-type]
        findings.append(diagnosed(algorithm, data, batch=mark))
    right, wrong = findings
    assert wrong["q_vs_mc"].verdict == "watch"
    assert "pessimistic" in wrong["q_vs_mc"].meaning
    assert "truncations" in wrong["q_vs_mc"].advice
    assert right["q_vs_mc"].verdict == "ok"


def narrow() -> OfflineDataModule:
    """50 episodes of a near-optimal policy, with rewards of a tenth."""
    data = data_module("gridworld/mixed", reward_scale=0.1)
    return patched(data, data._loaded[0].select_episodes(np.arange(50)))


def conservative(cql_alpha: float, discount: float) -> Findings:
    data = narrow()
    torch.manual_seed(0)
    options = {"lr": 1e-3, "discount": discount, "polyak": 0.02, "cql_alpha": cql_alpha}
    return diagnosed(
        DiscreteCQL(data.obs_dim, data.action_dim, (64, 64), **options),  # type: ignore[arg-type]
        data,
    )


def test_without_pessimism_values_on_narrow_data_run_away() -> None:
    findings = conservative(0.0, discount=0.99)
    assert {"q_policy_gap", "q_drift", "q_vs_mc"} <= alarms(findings)
    assert {findings[name].verdict for name in ("q_policy_gap", "q_drift")} == {"fail"}
    assert "over-conservative" not in findings["q_ood_gap"].meaning

    data = narrow()
    torch.manual_seed(0)
    options = {"lr": 1e-3, "discount": 0.99, "polyak": 0.02}
    twin = DiscreteIQL(data.obs_dim, data.action_dim, (64, 64), **options)  # type: ignore[arg-type]
    in_sample = diagnosed(twin, data)
    assert not {"q_policy_gap", "q_drift", "q_vs_mc", "q_bounds"} & alarms(in_sample)


def test_a_huge_penalty_is_called_over_conservative_and_not_a_wrong_sign() -> None:
    findings = conservative(1000.0, discount=0.95)
    assert findings["q_ood_gap"].verdict == "watch"
    assert "over-conservative" in findings["q_ood_gap"].meaning
    assert findings["q_sign"].verdict == "ok"


def test_a_higher_expectile_asks_for_a_higher_inverse_temperature() -> None:
    """Chain-5 at IQL's fixed point: weights flatten from expectile 0.7 to 0.99."""
    batch = chain5.exact_batch(6)
    findings = {}
    for expectile in (0.7, 0.99):
        algorithm = DiscreteIQL(
            5, 2, (), expectile=expectile, inverse_temperature=3.0, discount=chain5.DISCOUNT
        ).double()
        nets = [algorithm.v, algorithm.q]
        solve_fixed_point(algorithm, batch, nets, q=algorithm.q, target_q=algorithm.target_q)
        with torch.no_grad():
            q = algorithm.q_values(batch.obs, batch.action).amin(0)
            advantage = q - algorithm.v(batch.obs)
        findings[expectile] = awr_weights(advantage, 3.0, QThresholds())
    assert findings[0.7].verdict == "ok"
    assert findings[0.99].verdict == "watch"
    assert findings[0.99].value == pytest.approx(0.814, abs=1e-3)
    assert findings[0.99].advice.endswith("raise `inverse_temperature` with `expectile`.")
