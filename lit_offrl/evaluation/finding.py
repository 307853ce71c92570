"""What every diagnostic returns: a number, a verdict and two sentences."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

Verdict = Literal["ok", "watch", "fail", "not applicable"]
SEVERITY: dict[Verdict, int] = {"not applicable": -1, "ok": 0, "watch": 1, "fail": 2}


@dataclass(frozen=True)
class Finding:
    """One answer of a diagnostic, in words.

    Args:
        name: Short name, the same in every run: ``q_bounds``.
        verdict: ``ok``, ``watch``, ``fail`` or ``not applicable``.
        meaning: One sentence that says what was found, with the numbers in it.
        advice: One sentence that says what to do; empty where there is nothing to do.
        value: The number that the verdict is about.
        interval: Its interval, where it has one.
        unit: Unit of both, such as ``bits``; empty for a plain number.
    """

    name: str
    verdict: Verdict
    meaning: str
    advice: str = ""
    value: float | None = None
    interval: tuple[float, float] | None = None
    unit: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in get_args(Verdict):
            raise ValueError(f"There is no verdict `{self.verdict}`.")

    def __str__(self) -> str:
        """The verdict and the sentences on one line."""
        return f"{self.name} {self.verdict}: {self.meaning} {self.advice}".strip()

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, safe in a ``weights_only`` checkpoint and in JSON."""
        values = asdict(self)
        values["interval"] = None if self.interval is None else list(self.interval)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Finding":
        """Rebuild what :meth:`to_dict` returned."""
        interval = values.get("interval")
        return cls(**{**values, "interval": None if interval is None else tuple(interval)})


def not_applicable(name: str, reason: str) -> Finding:
    """Return the finding of a diagnostic that has nothing to say, and why."""
    return Finding(name, "not applicable", reason)


def worst(findings: Iterable[Finding]) -> Verdict:
    """Most severe verdict of several findings.

    >>> worst([Finding("a", "ok", ""), Finding("b", "watch", ""), not_applicable("c", "")])
    'watch'
    """
    verdicts: list[Verdict] = [finding.verdict for finding in findings]
    return max(verdicts, key=SEVERITY.__getitem__, default="not applicable")
