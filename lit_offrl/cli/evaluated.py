"""What ``lit-offrl evaluate`` shows of each policy, and of several beside each other."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from lit_offrl import __version__
from lit_offrl.checkpoint import LoadedPolicy
from lit_offrl.cli.tables import folding_table
from lit_offrl.data import DatasetSpec
from lit_offrl.errors import InputError
from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.online import OnlineCheck
from lit_offrl.evaluation.policy_evaluation import OffPolicyOptions, PolicyEvaluation
from lit_offrl.evaluation.ranking import rank_quality
from lit_offrl.report import KnownValue, Report
from lit_offrl.report.judging import policy_report

SYMBOLS = {"use": "✔", "do not use": "✘", "not shown": "?"}


@dataclass
class Evaluated:
    """One checkpoint and all that was found of it."""

    path: Path
    policy: LoadedPolicy
    evaluation: PolicyEvaluation
    online: OnlineCheck | None
    options: OffPolicyOptions
    log: DatasetSpec
    command: str
    report_path: Path | None = None

    def report(self) -> Report:
        """Write everything down."""
        online, info = self.online, self.policy.info
        known = None
        if online is not None:
            known = KnownValue(
                float(online.returns.mean()),
                online.interval.bounds,
                f"{len(online.returns)} episodes in the environment",
            )
        ledger = {
            "checkpoint": str(self.path),
            "algorithm": type(self.policy.algorithm).__name__,
            "gradient updates": info.updates,
            "training seed": info.seed,
            "log": self.log.dataset_id,
            "log's content hash": self.log.content_hash,
            "trained on": self.policy.spec.dataset_id,
            "its content hash": self.policy.spec.content_hash,
            "held-out share and split seed": f"{info.held_out:g}, {info.split_seed}",
            "logged episodes": self.evaluation.n_episodes,
            "online episodes spent in training": info.online_episodes,
            "online episodes spent here": 0 if online is None else len(online.returns),
            **{f"evaluation {key}": value for key, value in vars(self.options).items()},
            "lit_offrl": __version__,
            "torch": version("torch"),
            "python": platform.python_version(),
        }
        return policy_report(
            f"{type(self.policy.algorithm).__name__} on {self.log.dataset_id}",
            self.evaluation,
            self.options.level,
            info.findings,
            known,
            [] if online is None else online.findings,
            ledger,
            self.command,
        )


class StageProgress:
    """Shows what is being done: a bar in a terminal, a line per stage elsewhere.

    Args:
        name: What all of it is about.
    """

    def __init__(self, name: str) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False)
        self._name, self._stage = name, ""
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )

    def __call__(self, stage: str, share: float) -> None:
        """Show that ``share`` of a stage is done."""
        if stage != self._stage:
            self._stage = stage
            if self.console.is_terminal:
                for task in self._bar.task_ids:
                    self._bar.remove_task(task)
                self._bar.add_task(stage, total=1.0)
            else:
                self.console.print(f"{self._name}: {stage}", soft_wrap=True)
        if self.console.is_terminal:
            self._bar.update(self._bar.task_ids[0], completed=share)

    def __enter__(self) -> "StageProgress":
        if self.console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:  # elsewhere it would leave an empty line
            self._bar.stop()


def print_one(one: Evaluated) -> None:
    """Print the estimates of a policy, and the sentence."""
    console = Console(highlight=False, markup=False)
    evaluation, report = one.evaluation, one.report()
    headers = ("", "discounted return", f"{one.options.level:.0%} interval", "")
    table = folding_table(*headers, title=f"{report.title} · {evaluation.policy} policy")
    for names, estimate in _grouped(report.estimates):
        table.add_row(names, *_cells(estimate))
    table.add_section()
    table.add_row("logged behavior", *_cells(evaluation.behavior))
    if (online := report.online_value) is not None:
        table.add_row("environment", f"{online.value:.4g}", _span(online.interval), online.note)
    console.print(table)
    for finding in [*evaluation.findings, *(one.online.findings if one.online else [])]:
        if finding.verdict in ("fail", "watch"):
            console.print(str(finding), soft_wrap=True)
    asked = [f for f in one.policy.info.findings if f.verdict in ("fail", "watch")]
    if asked:
        console.print(f"Training left {len(asked)} more questions open: see the report.")
    word = f"{SYMBOLS[report.conclusion]} {report.conclusion.upper()}"
    console.print(f"{word}: {report.headline} {report.why}", soft_wrap=True)
    console.print(f"Report: {one.report_path}", soft_wrap=True)


def print_ranking(done: Sequence[Evaluated]) -> None:
    """Print policies in the order of their estimates, and how good that order is."""
    console = Console(highlight=False, markup=False)

    def value(one: Evaluated) -> float:
        headline = one.evaluation.assessment.headline
        return -float("inf") if headline is None or headline.value is None else headline.value

    ranked = sorted(done, key=value, reverse=True)
    online = all(one.online is not None for one in done)
    more = ["environment"] if online else []
    table = folding_table("", "estimate", "at least", "verdict", *more)
    for one in ranked:
        found = one.evaluation.assessment
        row = [
            str(one.path),
            "-" if found.headline is None else f"{found.headline.value:.4g}",
            "-" if found.lower_bound is None else f"{found.lower_bound:.4g}",
            f"{SYMBOLS[one.report().conclusion]} {found.agreement}",
        ]
        if one.online is not None and online:
            row.append(f"{one.online.returns.mean():.4g}")
        table.add_row(*row)
    console.print(table)
    console.print(
        _ranking_sentence(ranked, value(ranked[0]) > -float("inf"), online), soft_wrap=True
    )


def _ranking_sentence(ranked: Sequence[Evaluated], known: bool, online: bool) -> str:
    if not known:
        return "None of these policies can be ranked: no estimator applies."
    first = f"{ranked[0].path} has the highest estimate."
    usable = [one for one in ranked if one.report().conclusion == "use"]
    trusted = "" if usable else " None is shown to be better than the logged behavior."
    if not online:
        return first + trusted
    headlines = [one.evaluation.assessment.headline for one in ranked]
    estimates = [e.value for e in headlines if e is not None and e.value is not None]
    returns = [float(one.online.returns.mean()) for one in ranked if one.online is not None]
    try:
        quality = rank_quality(estimates, returns)
    except InputError as error:
        return f"{first}{trusted} {error}"
    return (
        f"{first}{trusted} Rank correlation of estimates and returns: {quality.spearman:.2f} "
        f"({_span(quality.interval)}); choosing by the estimate loses {quality.regret:.0%} of the "
        "range of returns."
    )


def _grouped(estimates: Sequence[Estimate]) -> list[tuple[str, Estimate]]:
    """Names and estimate of each row: those that do not apply for one reason share one."""
    rows: dict[object, list[Estimate]] = {}
    for estimate in estimates:
        alone = estimate.status != "not applicable"
        rows.setdefault(estimate.name if alone else (estimate.reason,), []).append(estimate)
    return [(", ".join(e.name for e in row), row[0]) for row in rows.values()]


def _cells(estimate: Estimate) -> tuple[str, str, str]:
    """Value, interval and remark of an estimate."""
    remark = estimate.reason
    if estimate.status != "valid":
        remark = f"{estimate.status}: {remark}"
    value = "-" if estimate.value is None else f"{estimate.value:.4g}"
    return value, _span(estimate.interval), remark


def _span(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.4g} to {interval[1]:.4g}"
