"""Break an evaluation on purpose: the named verdict must appear, and not in the run beside it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lit_offrl.algorithms import (
    BC,
    BCQ,
    CQL,
    DQN,
    IQL,
    TD3BC,
    DiscreteBCQ,
    DiscreteCQL,
    DiscreteIQL,
    OfflineAlgorithm,
)
from lit_offrl.batch import Batch, Layout
from lit_offrl.data import Transitions
from lit_offrl.errors import InputError
from lit_offrl.evaluation import off_policy
from lit_offrl.evaluation.behavior.cache import cached_behavior
from lit_offrl.evaluation.behavior.fit import BehaviorFit, score_behavior
from lit_offrl.evaluation.diagnosis.gap import episode_spread
from lit_offrl.evaluation.diagnosis.gap_episodes import Terms
from lit_offrl.evaluation.diagnosis.gap_findings import critic_finding, estimate_finding
from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.verdict import assess
from lit_offrl.policies import Categorical
from lit_offrl.report.judging import conclude, policy_report
from tests.algorithms import chain5
from tests.algorithms.chain5 import DISCOUNT, Array
from tests.algorithms.solving import losses_of_update, solve_fixed_point
from tests.evaluation.estimators.chain5_log import BETA, J_BETA, J_PI, PI
from tests.evaluation.logs import (
    by_name,
    cache_in,
    chain_log,
    episode_returns,
    evaluate_chain,
    verdicts,
)

TERMS = Terms(DISCOUNT, 0.0, None, (-0.1, 0.9))
MOODS = np.array([0.9, 0.3, 0.8, 0.35, 0.85])
"""A behavior that goes right by the state that it is in."""


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with cache_in(tmp_path_factory.mktemp("cache")):
        yield


def table_of(right: Array) -> Array:
    return np.stack([1 - right, right], 1)


def test_a_policy_of_unseen_actions_has_no_support_whatever_fqe_says() -> None:
    """The log never goes left from state 2 on; one policy does, in state 3, now and then."""
    behavior = table_of(np.array([0.6, 0.6, 1.0, 1.0, 1.0]))
    log = chain_log(500, seed=0, table=behavior)
    for left, supported in ((0.0, True), (0.2, False)):
        policy = table_of(np.array([0.9, 0.9, 1.0, 1 - left, 1.0]))
        found = evaluate_chain(log, policy)
        fqe = by_name(found)["FQE"].value
        truth = chain5.start_value(chain5.policy_value(policy))
        assert fqe is not None
        assert (found.assessment.agreement == "NO_SUPPORT") != supported
        assert verdicts(found)["support"] == ("ok" if supported else "fail")
        assert conclude(found)[0] == ("use" if supported else "do not use")
        assert (abs(fqe - truth) < 0.03) == supported


def test_one_model_that_speaks_twice_is_no_agreement() -> None:
    """MAGIC may be FQE's value alone, with its own small error: a wrong FQE would agree with it."""
    fqe = Estimate("FQE", "FQE", 10.0, std_error=0.5)
    magic = Estimate("MAGIC", "doubly robust", 10.01, std_error=0.05)
    wis = Estimate("WIS", "importance sampling", 4.0, std_error=0.5)

    def judge(*estimates: Estimate) -> str:
        return assess(estimates, 0.0, 20.0, 3.0, trivial_bound=0.0).agreement

    assert judge(fqe, magic) == "SINGLE"
    assert judge(fqe, magic, wis) == "DISAGREE"
    assert judge(fqe, magic, replace(wis, value=10.1)) == "AGREE"
    assert judge(magic) == "NONE"


def fitted_to_shuffled(*args: Any, **options: Any) -> BehaviorFit:
    """A behavior model of actions that belong to other rows, scored on the true ones."""
    transitions, scaling, spec = args
    order = np.random.default_rng(0).permutation(len(transitions))
    shuffled = replace(transitions, action=transitions.action[order])
    wrong = cached_behavior(shuffled, scaling, spec, **options)
    return replace(wrong, scores=score_behavior(wrong.policy, transitions, scaling))


def test_a_behavior_model_of_shuffled_actions_is_found_out_and_its_weights_collapse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    behavior = table_of(MOODS)
    log = chain_log(500, seed=1, table=behavior, logged=False)
    policy = 0.5 * behavior + 0.5 * PI
    truth = chain5.start_value(chain5.policy_value(policy))

    right = evaluate_chain(log, policy)
    monkeypatch.setattr(off_policy, "cached_behavior", fitted_to_shuffled)
    wrong = evaluate_chain(log, policy)

    names = ("behavior_ece", "behavior_unexplained")
    assert [verdicts(right)[name] for name in names] == ["ok", "ok"]
    assert "fail" in [verdicts(wrong)[name] for name in names]
    ess = [by_name(found)["WIS"].details["ess"] for found in (right, wrong)]
    assert ess[0] > 100 and ess[1] < 30
    for name in ("IS", "WIS", "DR"):
        assert [by_name(f)[name].status for f in (right, wrong)] == ["valid", "dropped"]
    apart = [
        abs((by_name(found)["RIS"].value or 0) - (by_name(found)["WIS"].value or 0))
        for found in (right, wrong)
    ]
    assert apart[0] < 0.02 < 0.1 < apart[1]
    for found in (right, wrong):  # fitted anew, and to true rows
        assert by_name(found)["RIS"].value == pytest.approx(truth, abs=0.1)
    assert conclude(wrong)[0] != "use"


def test_regression_and_logged_propensities_agree_on_a_sound_log() -> None:
    log = chain_log(500, seed=2, table=table_of(MOODS))
    found = by_name(evaluate_chain(log, 0.5 * table_of(MOODS) + 0.5 * PI))
    assert found["RIS"].value != found["WIS"].value
    assert found["RIS"].value == pytest.approx(found["WIS"].value, abs=0.03)
    assert found["RIS"].details["ess"] == pytest.approx(found["WIS"].details["ess"], rel=0.1)


def test_logged_propensities_of_another_policy_show_in_the_regression() -> None:
    """The log claims to have gone left and right alike."""
    log = chain_log(500, seed=2, table=table_of(MOODS))
    claimed = np.full(len(log), np.log(0.5), np.float32)
    policy = 0.5 * table_of(MOODS) + 0.5 * PI
    found = by_name(evaluate_chain(replace(log, behavior_log_prob=claimed), policy))
    wis, ris = found["WIS"], found["RIS"]
    assert wis.value is not None and ris.value is not None
    assert abs(wis.value - ris.value) > 0.1
    assert wis.details["ess"] < ris.details["ess"] / 3


def test_rewards_that_all_scale_scale_all_estimates_and_change_no_verdict() -> None:
    plain, scaled = (
        evaluate_chain(chain_log(500, seed=3, factor=factor), PI) for factor in (1.0, 1e4)
    )
    for one, other in zip(plain.estimates, scaled.estimates, strict=True):
        assert (one.name, one.status) == (other.name, other.status)
        if one.value is None:
            continue
        # rewards are float32
        assert other.value == pytest.approx(1e4 * one.value, rel=1e-5), one.name
        assert one.std_error is not None
        assert other.std_error == pytest.approx(1e4 * one.std_error, rel=1e-4), one.name
        assert one.interval is not None
        assert other.interval == pytest.approx([1e4 * end for end in one.interval], rel=1e-4)
        if one.lower_bound is not None:
            assert other.lower_bound == pytest.approx(1e4 * one.lower_bound, rel=1e-5)
        assert dict(other.details) == pytest.approx(dict(one.details), rel=1e-5)
    assert verdicts(plain) == verdicts(scaled)
    assert set(verdicts(scaled).values()) <= {"ok", "not applicable"}
    assert plain.assessment.agreement == scaled.assessment.agreement == "AGREE"
    assert plain.assessment.usable and scaled.assessment.usable
    assert plain.assessment.lower_bound is not None
    bound = 1e4 * plain.assessment.lower_bound
    assert scaled.assessment.lower_bound == pytest.approx(bound, rel=1e-5)
    assert scaled.spread == pytest.approx(1e4 * plain.spread, rel=1e-5)
    assert conclude(plain)[:2] == conclude(scaled)[:2]


def critic_of(factor: float) -> DiscreteIQL:
    """Where the values of IQL end with batches whose rewards are multiplied, and nothing else.

    The losses are squares, so that they end at ``factor`` times the values of true rewards.
    """
    algorithm = DiscreteIQL(5, 2, (), expectile=0.99, discount=DISCOUNT).double()
    batch, nets = chain5.exact_batch(6), (algorithm.v, algorithm.q)
    solve_fixed_point(algorithm, batch, nets, q=algorithm.q, target_q=algorithm.target_q)
    for net in (*nets, algorithm.target_q):
        for parameter in net.parameters():
            parameter.data.mul_(factor)
    losses = losses_of_update(algorithm, batch._replace(reward=factor * batch.reward))
    for net in nets:
        gradients = torch.autograd.grad(losses[net], list(net.parameters()), retain_graph=True)
        assert max(float(g.abs().max()) for g in gradients) < 1e-7 * factor
    return algorithm


def test_rewards_that_only_the_batches_scale_make_the_critic_optimistic() -> None:
    log = chain_log(400, seed=4)
    starts = torch.from_numpy(log.obs[log.episode_bounds[:-1]]).double()
    online = episode_returns(chain_log(400, seed=5, table=chain5.constant_policy(1.0)), DISCOUNT)
    spread = episode_spread(log, DISCOUNT)
    left, right = torch.zeros(len(starts)).long(), torch.ones(len(starts)).long()
    findings = []
    for factor in (1.0, 1e4):
        algorithm = critic_of(factor)
        with torch.no_grad():
            values = algorithm.q_values(starts, right).amin(0)
            assert (values > algorithm.q_values(starts, left).amin(0)).all()  # the policy is one
        assert values.mean() / factor == pytest.approx(0.299, abs=0.03)
        findings.append(critic_finding(values.numpy(), online, spread, TERMS))
    sound, broken = findings
    assert sound.verdict == "ok" and sound.meaning.startswith("CALIBRATED")
    assert broken.verdict == "fail" and broken.meaning.startswith("OPTIMISTIC")


def clone_of(log: Transitions) -> Array:
    """π(a|s) of behavior cloning that has seen the log, (5, 2)."""
    algorithm = BC(5, 2, "categorical", (), lr=0.1)
    columns = (log.obs, log.action, log.reward, log.next_obs, log.terminated)
    batch = Batch(*(torch.from_numpy(column) for column in columns))
    for _ in range(200):
        algorithm.update(batch)
    with torch.no_grad():
        distribution = algorithm.policy(torch.eye(5))
    assert isinstance(distribution, Categorical)
    return distribution.probs.double().numpy()


def test_a_clone_is_worth_what_the_log_returned_and_earns_it() -> None:
    log = chain_log(1500, seed=6, table=table_of(MOODS))
    clone = clone_of(log)
    np.testing.assert_allclose(clone[:, 1], MOODS, atol=0.03)
    found = evaluate_chain(log, clone)
    mean = episode_returns(log, DISCOUNT).mean()
    assert found.behavior.value == pytest.approx(mean, rel=1e-6)
    estimates = by_name(found)
    for name in ("WIS", "WPDIS", "RIS", "FQE", "DR", "WDR"):
        assert estimates[name].value == pytest.approx(mean, abs=0.04), name
    assert estimates["WIS"].details["ess"] > 1200
    assert found.assessment.agreement == "AGREE" and not found.assessment.usable
    assert found.assessment.headline is not None
    online = episode_returns(chain_log(1500, seed=7, table=clone), DISCOUNT)
    gap = estimate_finding(found.assessment.headline, online, found.spread, TERMS)
    assert gap.verdict == "ok" and gap.meaning.startswith("CALIBRATED")
    report = policy_report("BC", found, 0.95, gap=[gap])
    assert (report.conclusion, report.headline) == (
        "not shown",
        "It is not shown that this policy is better than the logged behavior.",
    )


def test_another_policy_than_the_clone_is_not_worth_what_the_log_returned() -> None:
    log = chain_log(1500, seed=6)
    found = evaluate_chain(log, PI)
    mean = episode_returns(log, DISCOUNT).mean()
    for name in ("WIS", "FQE", "DR"):
        value = by_name(found)[name].value
        assert value is not None and value > mean + 0.5 * (J_PI - J_BETA)


def test_returns_of_another_discount_do_not_compare_with_an_estimate() -> None:
    log = chain_log(300, seed=8)
    found = evaluate_chain(log, BETA)
    assert found.discount == DISCOUNT and found.assessment.headline is not None
    headline = found.assessment.headline
    online = chain_log(300, seed=9)
    right = estimate_finding(headline, episode_returns(online, DISCOUNT), found.spread, TERMS)
    assert right.verdict in ("ok", "watch")
    terms = replace(TERMS, discount=0.99)
    wrong = estimate_finding(headline, episode_returns(online, 0.99), found.spread, terms)
    assert wrong.verdict == "not applicable"
    assert "`discount` 0.95, the online returns 0.99" in wrong.meaning


@pytest.mark.parametrize("column", ["reward", "terminated", "truncated", "episode"])
def test_a_column_of_one_number_per_row_may_not_be_a_matrix(column: str) -> None:
    log = chain_log(3, seed=0)
    with pytest.raises(InputError, match=rf"`{column}` has shape \(\d+, 1\)"):
        replace(log, **{column: getattr(log, column)[:, None]})


def batch_of(algorithm: OfflineAlgorithm) -> Batch:
    g = torch.Generator().manual_seed(0)
    action = torch.rand(8, 2, generator=g) * 2 - 1
    if algorithm.actions == "discrete":
        action = torch.randint(2, (8,), generator=g)
    obs, next_obs = torch.randn(2, 8, 3, generator=g)
    return Batch(obs, action, torch.randn(8, generator=g), next_obs, torch.zeros(8))


@pytest.mark.parametrize("kind", [BCQ, CQL, DQN, IQL, TD3BC, DiscreteBCQ, DiscreteCQL, DiscreteIQL])
def test_no_update_takes_rewards_as_a_matrix(kind: type[OfflineAlgorithm]) -> None:
    """(B, 1) + (B,) would make (B, B): each row's target of every reward."""
    algorithm = kind(3, 2, hidden=(8,))  # type: ignore[call-arg]
    batch = batch_of(algorithm)
    algorithm.update(batch)
    with pytest.raises(RuntimeError, match="size"):
        algorithm.update(batch._replace(reward=batch.reward[:, None]))


def test_a_packed_batch_has_one_reward_per_row_however_it_was_given() -> None:
    batch = batch_of(DQN(3, 2))
    layout = Layout(3, 2, discrete=True)
    shapes = set()
    for reward in (batch.reward, batch.reward[:, None]):
        packed = layout.pack(batch.obs, batch.action, reward, batch.next_obs, batch.terminated)
        unpacked = layout.unpack(packed)
        assert torch.equal(unpacked.reward, batch.reward)
        shapes.add(unpacked.reward.shape)
    assert shapes == {(8,)}


def test_an_evaluation_repeats_itself_to_the_last_digit() -> None:
    log = chain_log(200, seed=10)
    one, other = (evaluate_chain(log, PI) for _ in range(2))
    assert one.estimates == other.estimates
    assert one.assessment == other.assessment and one.findings == other.findings
    reseeded = by_name(evaluate_chain(log, PI, seed=1))
    for name in ("FQE", "WIS"):  # the draws of the bootstrap are all that a seed changes
        assert reseeded[name].value == by_name(one)[name].value
        assert reseeded[name].interval != by_name(one)[name].interval
