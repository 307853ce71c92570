"""What ``lit-offrl evaluate`` left beside a checkpoint, if it judged this very policy."""

import json
import logging
from pathlib import Path
from typing import Any, get_args

from lit_offrl.checkpoint import LoadedPolicy
from lit_offrl.cli.run_folder import run_of
from lit_offrl.errors import InputError
from lit_offrl.evaluation.estimate import Estimate
from lit_offrl.evaluation.finding import Finding
from lit_offrl.report.content import Conclusion

_log = logging.getLogger(__name__)


def evaluation_path(path: Path) -> Path:
    """Where the evaluation of a checkpoint lies by default."""
    return run_of(path) / "evaluation" / path.stem / "report.json"


def evaluation_of(path: Path, policy: LoadedPolicy, acting: str) -> dict[str, Any] | None:
    """Read what an evaluation left of a policy; one of another is left out, with a warning.

    Args:
        path: The checkpoint, which may have been replaced since.
        policy: What it holds.
        acting: How the policy acts: ``greedy`` or ``sampled``.

    Returns:
        The content of ``report.json``, or None.

    Raises:
        InputError: If that file is damaged.
    """
    report = evaluation_path(path)
    if not report.is_file():
        return None
    known = {
        "algorithm": type(policy.algorithm).__name__,
        "gradient updates": policy.info.updates,
        "training seed": policy.info.seed,
        "its content hash": policy.spec.content_hash,
        "evaluation policy": acting,
    }
    try:
        values = _checked(json.loads(report.read_text(encoding="utf-8")))
        judged = {name: values["ledger"][name] for name in known}
        discounts = [
            e["details"]["discount"] for e in values["estimates"] if e["value"] is not None
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(
            f"`{report}` is no report of `lit-offrl evaluate`: make it anew, or remove it."
        ) from None
    known["discount"] = policy.algorithm.discount
    judged["discount"] = discounts[0] if discounts else known["discount"]
    if others := [
        f"{key} {judged[key]}, not {known[key]}" for key in known if judged[key] != known[key]
    ]:
        _log.warning(
            "%s judges another policy (%s) and is left out: run `lit-offrl evaluate` again.",
            report,
            "; ".join(others),
        )
        return None
    return values


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """Raise one of Python's errors if a report is not of the form that it is written in."""
    texts = [values[name] for name in ("headline", "why", "estimand")]
    texts += [values["ledger"][name] for name in ("log", "log's content hash")]
    if values["conclusion"] not in get_args(Conclusion) or {*map(type, texts)} != {str}:
        raise ValueError
    for finding in values["findings"]:
        Finding.from_dict(finding)
    for estimate in values["estimates"]:
        Estimate(**estimate)
        if estimate["status"] == "valid":
            low, high = estimate["interval"] or (0.0, 0.0)
            sum((estimate["value"], low, high))
    return values
