"""What an evaluation lets a report conclude."""

import itertools
from dataclasses import replace
from typing import get_args

import pytest
import torch

from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.finding import Finding, Verdict
from lit_offrl.evaluation.policy_evaluation import PolicyEvaluation
from lit_offrl.evaluation.verdict import Agreement, Assessment
from lit_offrl.report import Conclusion, KnownValue
from lit_offrl.report.judging import ASSUMPTIONS, conclude, policy_report

FQE = Estimate("FQE", "FQE", 10.0, (8.0, 12.0), 1.0)
WIS = Estimate("WIS", "importance sampling", 11.0, (7.0, 15.0), 2.0)
BEHAVIOR = Estimate("logged returns", "FQE", 5.0, (4.5, 5.5), 0.25)
SOUND = Finding("support", "ok", "All is supported.")
OPEN = Finding("behavior_ece", "watch", "The behavior model is somewhat off.")
BROKEN = Finding("behavior_pit", "fail", "The behavior model is wrong.", "Do not use it.")
GAP = Finding("gap_ope", "fail", "OPTIMISTIC: 50 episodes return 3.", "Mend the estimate.")

UNPROVEN = "It is not shown that this policy is better than the logged behavior."
BETTER = "As far as the log can show, this policy beats the logged behavior."


def evaluation(
    agreement: Agreement = "AGREE",
    usable: bool = True,
    findings: tuple[Finding, ...] = (SOUND,),
    headline: Estimate | None = FQE,
    lower_bound: float | None = 7.0,
) -> PolicyEvaluation:
    reason = f"The reason of {agreement}."
    return PolicyEvaluation(
        policy="greedy",
        discount=0.95,
        estimates=[WIS, FQE],
        assessment=Assessment(agreement, reason, headline, lower_bound, usable),
        behavior=BEHAVIOR,
        findings=list(findings),
        spread=20.0,
        n_episodes=1200,
        state_value=lambda obs: torch.zeros(len(obs)),
    )


def test_a_policy_that_is_shown_to_be_better_may_be_used() -> None:
    conclusion, headline, why = conclude(evaluation())
    assert (conclusion, headline) == ("use", BETTER)
    assert why == (
        "The reason of AGREE. FQE gives a discounted return of 10, at least 7, where the logged "
        "behavior earns 5."
    )


AGREEMENTS: tuple[Agreement, ...] = get_args(Agreement)
WORST: tuple[Verdict, ...] = ("not applicable", "ok", "watch", "fail")


@pytest.mark.parametrize(
    ("agreement", "usable", "worst"), list(itertools.product(AGREEMENTS, (False, True), WORST))
)
def test_only_agreement_above_the_behavior_without_a_failure_is_a_yes(
    agreement: Agreement, usable: bool, worst: Verdict
) -> None:
    headline = None if agreement == "NONE" else FQE
    bound = None if agreement in ("NONE", "NO_SUPPORT") else 7.0 if usable else 4.0
    found = evaluation(agreement, usable, (SOUND, Finding("a", worst, "What.")), headline, bound)
    conclusion, said, why = conclude(found)
    yes = agreement == "AGREE" and usable and worst != "fail"
    assert (conclusion == "use") == yes
    assert (said == BETTER) == yes
    no = "do not use" if agreement == "NO_SUPPORT" else "not shown"
    assert conclusion == ("use" if yes else no)
    assert f"The reason of {agreement}." in why
    if conclusion == "not shown":
        assert "not shown" in said or "contradict" in said or "Nothing is known" in said


@pytest.mark.parametrize(
    ("agreement", "headline"),
    [
        ("NO_SUPPORT", "The log does not show what this policy would do."),
        ("DISAGREE", "The estimates of this policy contradict each other."),
        ("SINGLE", UNPROVEN),
        ("NONE", "Nothing is known of this policy's return."),
    ],
)
def test_each_way_to_know_too_little_has_its_words(agreement: Agreement, headline: str) -> None:
    known = None if agreement == "NONE" else FQE
    assert conclude(evaluation(agreement, False, headline=known))[1] == headline


def test_a_bound_below_the_behavior_shows_nothing() -> None:
    conclusion, headline, why = conclude(evaluation(usable=False, lower_bound=4.0))
    assert (conclusion, headline) == ("not shown", UNPROVEN)
    assert "at least 4, where the logged behavior earns 5" in why


def test_a_policy_whose_interval_lies_below_the_behavior_is_called_worse() -> None:
    worse = replace(FQE, value=2.0, interval=(1.0, 4.9))
    conclusion, headline, _ = conclude(evaluation(usable=False, headline=worse, lower_bound=1.0))
    assert (conclusion, headline) == (
        "do not use",
        "This policy is worse than the logged behavior.",
    )
    touching = replace(worse, interval=(1.0, 5.1))
    found = evaluation(usable=False, headline=touching, lower_bound=1.0)
    assert conclude(found)[:2] == ("not shown", UNPROVEN)
    # estimates that do not agree do not show that it is worse either
    for agreement in ("SINGLE", "DISAGREE"):
        found = evaluation(agreement, False, headline=worse, lower_bound=1.0)
        assert conclude(found)[0] == "not shown"


def test_a_failing_finding_is_the_reason_that_is_given() -> None:
    conclusion, headline, why = conclude(evaluation(findings=(SOUND, OPEN, BROKEN)))
    assert (conclusion, headline) == ("not shown", UNPROVEN)
    assert why == "The behavior model is wrong. The reason of AGREE."


def test_a_bound_that_is_missing_is_not_mentioned() -> None:
    why = conclude(evaluation("DISAGREE", False, lower_bound=None))[2]
    assert "at least" not in why
    assert "return of 10 where the logged behavior earns 5" in why


def report_of(**more: object) -> tuple[Conclusion, str, str]:
    report = policy_report("IQL on a log", evaluation(), 0.95, **more)  # type: ignore[arg-type]
    return report.conclusion, report.headline, report.why


def test_episodes_that_refute_the_estimate_take_the_yes_back() -> None:
    assert report_of()[0] == "use"
    conclusion, headline, why = report_of(gap=[GAP], online=KnownValue(3.0))
    assert (conclusion, headline) == ("not shown", UNPROVEN)
    assert "50 episodes return 3" in why


def test_a_training_that_failed_a_check_takes_the_yes_back() -> None:
    """The report of the run says `do not use` then; the two must not contradict each other."""
    broken = Finding("q_bounds", "fail", "Q leaves its bounds.", "Lower the learning rate.")
    assert report_of(training=[broken])[:2] == ("not shown", UNPROVEN)
    assert report_of(training=[replace(broken, verdict="watch")])[0] == "use"


def test_the_report_tells_what_was_estimated_from_what() -> None:
    mine = Finding("q_policy_gap", "watch", "The actor exploits the critic.", "Stop earlier.")
    stale = Finding("support", "fail", "An older answer to the same question.")
    stale_ok = replace(stale, verdict="ok")
    report = policy_report(
        "IQL on a log",
        evaluation(findings=(SOUND, OPEN)),
        0.9,
        training=[mine, stale_ok],
        online=KnownValue(9.0, (8.0, 10.0), "20 episodes"),
        gap=[replace(GAP, verdict="ok")],
        ledger={"seed": 3},
        command="lit-offrl evaluate x.ckpt",
    )
    assert report.title == "IQL on a log" and report.level == 0.9
    names = [finding.name for finding in report.findings]
    assert names == ["support", "behavior_ece", "gap_ope", "q_policy_gap"]
    assert report.findings[0] == SOUND  # the evaluation's, not the one of training
    assert [e.name for e in report.estimates] == ["FQE", "WIS"]  # the reported one first
    assert report.key_estimate == FQE
    assert report.lower_bound == 7.0
    assert report.behavior_value is not None
    assert report.behavior_value.value == 5.0 and report.behavior_value.interval == (4.5, 5.5)
    assert report.behavior_value.note == "logged returns of 1,200 episodes"
    assert report.online_value == KnownValue(9.0, (8.0, 10.0), "20 episodes")
    assert "γ = 0.95" in report.estimand and "greedy policy" in report.estimand
    assert report.ledger == {"seed": 3} and report.assumptions == ASSUMPTIONS
    assert report.command == "lit-offrl evaluate x.ckpt"


def test_an_answer_of_training_that_evaluation_gave_anew_does_not_count() -> None:
    stale = Finding("support", "fail", "An older answer to the same question.")
    assert report_of(training=[stale])[0] == "use"
