from dataclasses import replace

import pytest
from scipy.stats import norm

from lit_offrl.evaluation.estimate import Estimate, inapplicable
from lit_offrl.evaluation.finding import Finding, not_applicable, worst
from lit_offrl.evaluation.verdict import Assessment, assess, conservative, screen

FQE = Estimate("FQE", "FQE", 10.0, (9.0, 11.0), std_error=0.5)
WIS = Estimate("WIS", "importance sampling", 10.5, std_error=0.5, details={"ess": 80.0})
MODEL = Estimate("model", "model-based", 9.8, std_error=0.4)


def judge(*estimates: Estimate, unsupported: float = 0.0, behavior: float = 5.0) -> Assessment:
    return assess(estimates, unsupported, 20.0, behavior, trivial_bound=0.0)


def test_estimates_that_agree_make_a_better_policy_usable() -> None:
    found = judge(FQE, WIS, MODEL)
    assert (found.agreement, found.usable, found.headline) == ("AGREE", True, FQE)
    assert found.lower_bound is not None and 5 < found.lower_bound < 10


def test_agreement_alone_does_not_make_a_policy_usable() -> None:
    assert not judge(FQE, WIS, behavior=9.5).usable
    unsure = [replace(one, std_error=100.0) for one in (FQE, WIS)]
    assert judge(*unsure, behavior=0.0).lower_bound == 0.0  # what every policy earns
    assert not judge(*unsure, behavior=0.0).usable


def test_missing_support_overrules_agreement() -> None:
    found = judge(FQE, WIS, MODEL, unsupported=0.21)
    assert (found.agreement, found.usable, found.lower_bound) == ("NO_SUPPORT", False, None)
    assert judge(FQE, WIS, MODEL, unsupported=0.2).agreement == "AGREE"


def test_estimates_apart_by_more_than_their_errors_disagree() -> None:
    found = judge(FQE, replace(WIS, value=11.5))  # 2 sqrt(.5² + .5²) = 1.41
    assert (found.agreement, found.usable) == ("DISAGREE", False)
    assert "differ by 1.5, more than the 1.41 that" in found.reason
    assert judge(FQE, replace(WIS, value=11.4)).agreement == "AGREE"


def test_wide_errors_do_not_excuse_a_large_difference() -> None:
    wide = replace(WIS, value=13.0, std_error=5.0)  # more than a tenth of the spread of 20
    assert judge(FQE, wide).agreement == "DISAGREE"


def test_a_log_of_equal_returns_does_not_make_close_estimates_disagree() -> None:
    close = [replace(FQE, value=270.0), replace(WIS, value=269.0)]
    assert assess(close, 0.0, 0.5, 5.0, trivial_bound=0.0).agreement == "AGREE"
    costs = [replace(FQE, value=-270.0), replace(WIS, value=-269.0)]
    assert assess(costs, 0.0, 0.5, -500.0, trivial_bound=-900.0).agreement == "AGREE"
    apart = [replace(FQE, value=-270.0, std_error=30.0), replace(WIS, value=-240.0, std_error=30.0)]
    assert assess(apart, 0.0, 0.5, -500.0, trivial_bound=-900.0).agreement == "DISAGREE"


def test_the_estimate_that_stands_apart_is_named() -> None:
    assert "model is the one apart" in judge(FQE, WIS, replace(MODEL, value=2.0)).reason


def test_doubly_robust_and_importance_sampling_are_one_kind() -> None:
    wdr = Estimate("WDR", "doubly robust", 10.2, std_error=0.1, details={"ess": 80.0})
    found = judge(wdr, WIS)
    assert (found.agreement, found.headline) == ("SINGLE", wdr)


def test_of_one_kind_the_one_whose_error_is_known_and_least_speaks() -> None:
    unknown, better = replace(WIS, name="IS", std_error=None), replace(WIS, name="PDIS")
    worse = replace(WIS, std_error=0.6)
    for order in ((unknown, worse, better), (better, worse, unknown)):
        assert judge(*order).headline == better


def test_magic_is_no_witness_and_no_headline() -> None:
    magic = Estimate("MAGIC", "doubly robust", 10.0, std_error=0.1, details={"ess": 80.0})
    assert judge(FQE, magic).agreement == "SINGLE"
    assert judge(magic).agreement == "NONE"
    assert judge(magic, WIS).headline == WIS


def test_dropped_and_inapplicable_estimates_do_not_count() -> None:
    dropped = replace(WIS, status="dropped", reason="few")
    assert judge(FQE, dropped, inapplicable("model", "model-based", "off")).agreement == "SINGLE"
    assert judge(dropped).agreement == "NONE"
    assert judge(dropped).headline is None


@pytest.mark.parametrize(
    ("n", "ess", "status"),
    [(100, 29.9, "dropped"), (100, 30.0, "valid"), (5000, 49.0, "dropped"), (5000, 50.0, "valid")],
)
def test_weights_of_few_effective_episodes_are_dropped(n: int, ess: float, status: str) -> None:
    (found,) = screen([replace(WIS, details={"ess": ess})], n)
    assert found.status == status
    assert found.value == WIS.value  # still shown


def test_weights_without_a_variance_are_dropped() -> None:
    heavy, light = ({"ess": 80.0, "pareto_k": k} for k in (0.71, 0.69))
    assert [e.status for e in screen([replace(WIS, details=heavy)], 100)] == ["dropped"]
    assert [e.status for e in screen([replace(WIS, details=light)], 100)] == ["valid"]
    assert screen([replace(FQE, details=heavy)], 100) == [replace(FQE, details=heavy)]


def test_the_conservative_estimate_is_the_least_lower_bound_with_the_error_split() -> None:
    z = norm.ppf(1 - 0.05 / 2)
    assert conservative([FQE, WIS], -100) == pytest.approx(10.0 - z * 0.5)
    assert conservative([FQE], -100) == pytest.approx(10.0 - norm.ppf(0.95) * 0.5)


def test_the_conservative_estimate_is_at_least_what_every_policy_earns() -> None:
    assert conservative([replace(FQE, std_error=100.0)], 1.5) == 1.5
    assert conservative([replace(FQE, status="dropped")], 1.5) is None


def test_a_bound_of_its_own_counts_where_there_is_no_standard_error() -> None:
    bounded = replace(WIS, std_error=None, lower_bound=7.0)
    assert conservative([FQE, bounded], -100) == 7.0
    assert conservative([FQE, replace(bounded, lower_bound=None)], -100) == pytest.approx(
        10.0 - norm.ppf(1 - 0.05 / 2) * 0.5
    )
    assert conservative([replace(bounded, lower_bound=None)], -100) is None


def test_an_estimate_refuses_nan() -> None:
    with pytest.raises(ValueError, match="must say why"):
        Estimate("IS", "importance sampling", float("nan"))


def test_findings_survive_plain_types_and_the_worst_counts() -> None:
    finding = Finding("q_bounds", "watch", "Q is high.", "Lower lr.", 0.2, (0.1, 0.3), "bits")
    assert Finding.from_dict(finding.to_dict()) == finding
    assert worst([not_applicable("a", "")]) == "not applicable"
    assert worst([finding, Finding("b", "fail", "")]) == "fail"
    with pytest.raises(ValueError, match="no verdict"):
        Finding("a", "bad", "")  # type: ignore[arg-type]
