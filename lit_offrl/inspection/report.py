"""A data set's inspection as a whole."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from lit_offrl.data import Transitions, load_dataset
from lit_offrl.data.spec import DatasetSpec
from lit_offrl.evaluation.finding import Finding
from lit_offrl.inspection.actions import action_findings
from lit_offrl.inspection.behavior import behavior_findings
from lit_offrl.inspection.coverage import coverage_findings
from lit_offrl.inspection.integrity import integrity_findings
from lit_offrl.inspection.questions import Answers
from lit_offrl.inspection.recommendation import Recommendation, recommend
from lit_offrl.inspection.returns import return_findings
from lit_offrl.inspection.rewards import reward_findings
from lit_offrl.inspection.thumbnails import frames_finding, with_thumbnails

BEHAVIOR_UPDATES = 300
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class DataReport:
    """What was found in a log.

    Args:
        transitions: The log.
        spec: What is known of it.
        findings: All measures; those that are ``watch`` or ``fail`` are flags.
    """

    transitions: Transitions
    spec: DatasetSpec
    findings: list[Finding]

    @property
    def flags(self) -> list[Finding]:
        """Findings that ask for something to be done."""
        return [one for one in self.findings if one.verdict in ("watch", "fail")]

    def recommendation(self, answers: Answers | None = None) -> Recommendation:
        """Rank the algorithms to try."""
        return recommend(self.findings, self.spec, answers)

    def to_dict(self, answers: Answers | None = None) -> dict[str, Any]:
        """Return plain types, for JSON."""
        return {
            "dataset_id": self.spec.dataset_id,
            "content_hash": self.spec.content_hash,
            "findings": [one.to_dict() for one in self.findings],
            "recommendation": asdict(self.recommendation(answers)),
        }


def inspect(
    dataset_id: str,
    behavior_updates: int = BEHAVIOR_UPDATES,
    progress: Progress | None = None,
) -> DataReport:
    """Measure the quality of a data set.

    Args:
        dataset_id: Minari id, built-in set or D4RL file.
        behavior_updates: Gradient updates of the behavior model; 0 leaves it out.
        progress: Called with what is measured and the fraction done.

    Raises:
        InputError: If the set is missing or damaged.
    """
    transitions, spec = load_dataset(dataset_id)
    return inspect_transitions(transitions, spec, behavior_updates, progress)


def inspect_transitions(
    transitions: Transitions,
    spec: DatasetSpec,
    behavior_updates: int = BEHAVIOR_UPDATES,
    progress: Progress | None = None,
) -> DataReport:
    """Measure the quality of transitions that are in memory; see :func:`inspect`."""
    log, known = transitions, spec
    transitions, spec = with_thumbnails(log, known)
    findings = integrity_findings(transitions, spec)
    parts: dict[str, Callable[[], list[Finding]]] = {
        "returns": lambda: return_findings(transitions, spec),
        "rewards": lambda: reward_findings(transitions),
        "actions": lambda: action_findings(transitions, spec),
        "coverage": lambda: coverage_findings(transitions, spec),
        "behavior": lambda: behavior_findings(transitions, spec, behavior_updates),
    }
    if findings[0].verdict == "fail":  # not finite: nothing else means anything
        parts = {}
    for done, (name, measure) in enumerate(parts.items(), start=1):
        if progress is not None:
            progress(name, done / (len(parts) + 1))
        findings += measure()
    if log.frames:
        findings.append(frames_finding(log, known))
    return DataReport(transitions, known, findings)
