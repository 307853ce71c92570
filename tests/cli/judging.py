"""What ``lit-offrl evaluate`` leaves beside a checkpoint, without its work."""

import json
from pathlib import Path
from typing import Any

from lit_offrl.checkpoint import load


def leave_evaluation(
    checkpoint: Path, ledger: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """Write the report of an evaluation that found one valid estimate; return its path."""
    policy = load(checkpoint)
    estimate = {
        "name": "FQE", "family": "FQE", "status": "valid", "value": 0.5, "interval": [-1.0, 2.0],
        "details": {"discount": policy.algorithm.discount},
    }  # fmt: skip
    judged = {
        "algorithm": type(policy.algorithm).__name__,
        "gradient updates": policy.info.updates,
        "training seed": policy.info.seed,
        "log": policy.spec.dataset_id,
        "log's content hash": policy.spec.content_hash,
        "its content hash": policy.spec.content_hash,
        "evaluation policy": "greedy",
    }
    report = {
        "conclusion": "use",
        "headline": "It is better.",
        "why": "By far.",
        "estimand": "Discounted return.",
        "findings": [],
        "estimates": [estimate | changes],
        "ledger": judged | (ledger or {}),
    }
    path = checkpoint.parents[1] / "evaluation" / checkpoint.stem / "report.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report))
    return path
