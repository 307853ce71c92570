"""What the report of a run says of its training."""

import pytest

from lit_offrl.evaluation.finding import Finding, not_applicable
from lit_offrl.report import Curve, Report, Scatter
from lit_offrl.report.training import training_report

OK = Finding("q_sign", "ok", "Values have both signs.")
WATCH = Finding("q_policy_gap", "watch", "The actor exploits the critic.", "Stop earlier.")
FAIL = Finding("q_bounds", "fail", "Q leaves its bounds.", "Lower the learning rate.")
ABSENT = not_applicable("gap_critic", "No environment.")
NEXT = "Estimate its return with `lit-offrl evaluate last.ckpt`."


def report_of(*findings: Finding, interrupted: bool = False) -> Report:
    return training_report(
        "IQL", findings, checkpoint="last.ckpt", interrupted=interrupted, ledger={"seed": 0}
    )


@pytest.mark.parametrize(
    ("findings", "conclusion", "headline", "why"),
    [
        (
            (OK, WATCH, FAIL),
            "do not use",
            "A check of the training failed: mend that first.",
            "Q leaves its bounds.",
        ),
        (
            (FAIL, FAIL),
            "do not use",
            "A check of the training failed: mend that first.",
            "Q leaves its bounds. 1 more check failed.",
        ),
        (
            (FAIL, FAIL, FAIL),
            "do not use",
            "A check of the training failed: mend that first.",
            "Q leaves its bounds. 2 more checks failed.",
        ),
        (
            (OK, OK, ABSENT),
            "not shown",
            "Training looks sound; whether to use the policy is not shown.",
            NEXT,
        ),
        (
            (OK, WATCH, WATCH, ABSENT, ABSENT),
            "not shown",
            "Training raised 2 of 3 questions; whether to use the policy is not shown.",
            f"The actor exploits the critic. {NEXT}",
        ),
        ((), "not shown", "Nothing was checked while this policy was trained.", NEXT),
        ((ABSENT,), "not shown", "Nothing was checked while this policy was trained.", NEXT),
    ],
)
def test_the_worst_finding_makes_the_conclusion(
    findings: tuple[Finding, ...], conclusion: str, headline: str, why: str
) -> None:
    report = report_of(*findings)
    assert (report.conclusion, report.headline, report.why) == (conclusion, headline, why)
    assert report.findings == list(findings)


@pytest.mark.parametrize("findings", [(), (OK,), (WATCH,), (FAIL,), (ABSENT,)])
def test_no_training_alone_shows_that_a_policy_may_be_used(findings: tuple[Finding, ...]) -> None:
    assert report_of(*findings).conclusion != "use"
    assert report_of(*findings, interrupted=True).conclusion != "use"


@pytest.mark.parametrize("findings", [(), (OK,), (WATCH,), (FAIL,)])
def test_an_interruption_is_said_first_and_changes_no_verdict(
    findings: tuple[Finding, ...],
) -> None:
    whole, cut = report_of(*findings), report_of(*findings, interrupted=True)
    assert cut.why == f"The run was interrupted before its end. {whole.why}"
    assert (cut.conclusion, cut.headline) == (whole.conclusion, whole.headline)


def test_the_report_carries_what_it_was_given_and_no_estimate() -> None:
    curve = Curve("KL", "bits", [0, 100], {"mean": [1.0, 2.0]})
    scatter = Scatter.of("Q", "return", "Q", [0.0], [1.0])
    report = training_report(
        "IQL", [OK], [curve], [scatter], {"seed": 3}, checkpoint="runs/a b/last.ckpt"
    )
    assert report.curves == [curve] and report.scatters == [scatter]
    assert report.ledger == {"seed": 3}
    assert report.command == "lit-offrl evaluate 'runs/a b/last.ckpt'"  # as a shell takes it
    assert report.why.endswith(f"`{report.command}`.")
    assert not report.estimates and report.lower_bound is None and report.behavior_value is None
