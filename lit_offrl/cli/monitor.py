"""``lit-offrl monitor``: does the world that a policy acts in still match its log?"""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jsonargparse import Namespace
from rich.console import Console
from rich.table import Table

from lit_offrl.checkpoint import LoadedPolicy, load
from lit_offrl.cli.evaluated import StageProgress
from lit_offrl.cli.judged import evaluation_of, evaluation_path
from lit_offrl.cli.parsing import OneLineParser, check_seed, make_writable, use_threads
from lit_offrl.cli.run_folder import run_of
from lit_offrl.data import Transitions, load_dataset
from lit_offrl.data.minari_folder import locate
from lit_offrl.errors import InputError
from lit_offrl.online.monitor.deployment import DeploymentMonitor
from lit_offrl.online.monitor.evidence import counted
from lit_offrl.online.monitor.seen import Prediction, check_episodes
from lit_offrl.report import write_report
from lit_offrl.report.monitoring import monitor_report


def main(args: Sequence[str]) -> Path:
    """Watch episodes, print a table and a sentence, and return the report's path."""
    config = _parser().parse_args(list(args))
    use_threads(config.threads)
    check_seed("--seed", config.seed)
    path = Path(config.checkpoint).expanduser()
    policy = load(path)
    (logs, content), calibration = _episodes(config.logs, policy), None
    if config.calibration is not None:
        calibration, accepted = _episodes(config.calibration, policy)
        if accepted == content:
            raise InputError(
                f"`{config.calibration}` and `{config.logs}` hold the same episodes, which cannot "
                "differ from themselves: calibrate with others."
            )
    folder = Path(config.out) if config.out else run_of(path) / "monitor" / path.stem
    prediction = _prediction(config.predicted, path, policy, config.policy)
    reference = _reference(policy)
    for episodes in (logs, calibration):
        if episodes is not None:  # before minutes of work
            check_episodes(episodes, reference)
    make_writable(folder, "--out")
    with StageProgress(str(path)) as progress:
        monitor = DeploymentMonitor(
            policy.algorithm,
            reference,
            policy.spec,
            policy.scaling,
            prediction=prediction,
            calibration=calibration,
            policy=config.policy,
            delta=config.delta,
            updates=config.model_updates,
            seed=config.seed,
            progress=progress,
        )
        for i in range(logs.n_episodes):
            progress("deployed episodes", i / logs.n_episodes)
            for alarm in monitor.add(logs.select_episodes(np.array([i]))):
                progress.console.print(f"episode {i + 1}: {alarm.name}", soft_wrap=True)
    title = f"{type(policy.algorithm).__name__} of {policy.spec.dataset_id} in {config.logs}"
    ledger = _ledger(path, policy, config, prediction)
    command = shlex.join(["lit-offrl", "monitor", *args])
    report = write_report(monitor_report(monitor, title, ledger, command), folder)
    _print(monitor, title, report)
    return report


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="lit-offrl monitor",
        description="Compare deployed episodes with the log and with what was predicted.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=str, help="Checkpoint of `lit-offrl fit` or `finetune`.")
    parser.add_argument(
        "logs", type=str, help="Minari id or D4RL file of the deployed episodes, in their order."
    )
    parser.add_argument(
        "--calibration",
        type=str | None,
        default=None,
        help="Set of accepted episodes of this policy, such as those of its acceptance test.",
    )
    parser.add_argument(
        "--predicted",
        nargs=3,
        type=float,
        default=None,
        help="MEAN LOW HIGH of the discounted return; by default what `lit-offrl evaluate` left.",
    )
    parser.add_argument(
        "--policy",
        type=Literal["greedy", "sampled"],
        default="greedy",
        help="Whether the greedy or the sampled policy is deployed.",
    )
    parser.add_argument("--delta", type=float, default=0.05, help="Rate of false alarms.")
    parser.add_argument(
        "--model_updates", type=int, default=2000, help="Gradient updates of each model of the log."
    )
    parser.add_argument("--seed", type=int, default=0, help="Of the log's split and the models.")
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="Folder of the report; by default `monitor/NAME` in the checkpoint's run folder.",
    )
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads to use.")
    return parser


def _episodes(dataset_id: str, policy: LoadedPolicy) -> tuple[Transitions, str]:
    """Load episodes of the checkpoint's task and discount, and their content hash."""
    transitions, spec = load_dataset(dataset_id)
    known = policy.spec
    known.refuse_images("The monitor")
    shapes = [(s.obs_dim, s.action_dim, s.discrete) for s in (known, spec)]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"The checkpoint knows {known.obs_dim} observation features and {known.action_dim} "
            f"{'discrete ' if known.discrete else ''}actions, `{dataset_id}` has {spec.obs_dim} "
            f"and {spec.action_dim}: give episodes of the same task."
        )
    named = _metadata(dataset_id).get("discount")
    discount = float(policy.algorithm.discount)
    if named is not None and not isinstance(named, int | float):
        raise InputError(f"`{dataset_id}` names the discount {named!r}, which is not a number.")
    if named is not None and abs(named - discount) > 1e-9:
        raise InputError(
            f"`{dataset_id}` names the discount {named}, the checkpoint {discount}: their returns "
            "cannot be compared. Give logs or a checkpoint of the same discount."
        )
    return transitions, spec.content_hash


def _metadata(dataset_id: str) -> dict[str, Any]:
    """What a Minari set says of itself; nothing for a D4RL file."""
    if dataset_id.endswith((".hdf5", ".h5")):
        return {}
    text = (locate(dataset_id)[1] / "metadata.json").read_text(encoding="utf-8")
    values: dict[str, Any] = json.loads(text)
    return values


def _reference(policy: LoadedPolicy) -> Transitions:
    """Load the log that the checkpoint was trained on, and no other."""
    known = policy.spec
    transitions, spec = load_dataset(known.dataset_id)
    if spec.content_hash != known.content_hash:
        raise InputError(
            f"`{known.dataset_id}` is not what the checkpoint was trained on (content "
            f"{spec.content_hash[:8]}, not {known.content_hash[:8]}): restore that log to compare "
            "with it."
        )
    return transitions


def _prediction(
    given: list[float] | None, path: Path, policy: LoadedPolicy, acting: str
) -> Prediction | None:
    """The predicted return: as given, or what an evaluation left beside the checkpoint."""
    if given is not None:
        return Prediction(given[0], given[1], given[2], "`--predicted`")
    evaluation = evaluation_of(path, policy, acting) or {"estimates": []}
    for one in evaluation["estimates"]:
        if one["status"] == "valid" and one["interval"] is not None:
            low, high = one["interval"]
            return Prediction(one["value"], low, high, f"{one['name']} of {evaluation_path(path)}")
    return None


def _ledger(
    path: Path, policy: LoadedPolicy, config: Namespace, prediction: Prediction | None
) -> dict[str, str | int | float]:
    return {
        "checkpoint": str(path),
        "deployed episodes": config.logs,
        "calibration episodes": config.calibration or "held-out episodes of the log",
        "trained on": policy.spec.dataset_id,
        "its content hash": policy.spec.content_hash,
        "prediction": "none" if prediction is None else prediction.source,
        "deployed policy": config.policy,
        "rate of false alarms": config.delta,
        "updates of each model": config.model_updates,
        "seed": config.seed,
    }


def _print(monitor: DeploymentMonitor, title: str, report: Path) -> None:
    """Print what each test found, and the sentence."""
    console, found = Console(highlight=False, markup=False), monitor.conclusion
    table = Table("test", "", "e", "alarm after", title=title, title_justify="left")
    remarks: list[str] = []
    for finding in monitor.findings():
        name = finding.name.removeprefix("monitor_")
        after = found.alarms.get(name)
        e_value = f"{finding.value:.3g}" if name in monitor.wealth else ""
        table.add_row(name, finding.verdict, e_value, "" if after is None else counted(after))
        if finding.verdict != "ok":
            remarks.append(f"{name} {finding.verdict}: {finding.meaning}")
    console.print(table)
    for remark in remarks:
        console.print(remark, soft_wrap=True)
    console.print(
        f"Compared with {len(monitor.known)} {monitor.whose}; alarms at e = "
        f"{monitor.threshold:.4g}, so that unchanged deployments alarm at a rate of "
        f"{monitor.delta:g} at most"
        f"{'' if monitor.calibrated else ', as far as the log is like them'}.",
        soft_wrap=True,
    )
    console.print(
        f"{found.change.upper()} after {counted(found.episodes)}: {found.sentence} {found.advice}",
        soft_wrap=True,
    )
    console.print(f"Report: {report}", soft_wrap=True)
