"""The model card: what a policy is, what is known of it, and what it must not be used for."""

import json
import platform
from importlib.metadata import version
from typing import Any

from lit_offrl.algorithms import OfflineAlgorithm
from lit_offrl.checkpoint import LoadedPolicy
from lit_offrl.deploy.agreeing import Agreement

FORMAT = 1
LOADING = """\
import numpy, onnxruntime
session = onnxruntime.InferenceSession("policy.onnx")
obs = numpy.zeros((1, {obs_dim}), numpy.float32)  # raw observations, flattened
(action,) = session.run(None, {{"obs": obs}})"""
LOADING_TORCH = """\
import torch
policy = torch.export.load("policy.pt2").module()
action = policy(torch.zeros(1, {obs_dim}))  # raw observations, flattened"""


def make_card(
    policy: LoadedPolicy,
    evaluation: dict[str, Any] | None,
    hashes: dict[str, str],
    checks: dict[str, Agreement],
    checked_on: str,
) -> dict[str, Any]:
    """Gather everything, in plain types.

    Args:
        policy: What was trained.
        evaluation: ``report.json`` of its evaluation as it acts here, greedily, if there is one.
        hashes: SHA-256 of each file.
        checks: How each graph acts beside the policy.
        checked_on: How many observations, and which.
    """
    spec, scaling, info = policy.spec, policy.scaling, policy.info
    known, training = evaluation or {}, [finding.to_dict() for finding in info.findings]
    return {
        "format": FORMAT,
        "algorithm": type(policy.algorithm).__name__,
        "arguments": _plain(policy.algorithm),
        "updates": info.updates,
        "seed": info.seed,
        "discount": policy.algorithm.discount,
        "online_episodes_spent": info.online_episodes,
        "online_steps": info.online_steps,
        "data": {
            "dataset_id": spec.dataset_id,
            "content_hash": spec.content_hash,
            "held_out": info.held_out,
            "split_seed": info.split_seed,
        },
        "input": {"name": "obs", "shape": ["batch", spec.obs_dim], "space": spec.obs_space},
        "output": {"name": "action", "space": spec.action_space},
        "scaling": scaling.to_dict(),
        "conclusion": known.get("conclusion", "not evaluated"),
        "headline": known.get("headline", ""),
        "why": known.get("why", ""),
        "estimates": known.get("estimates", []),
        "lower_bound": known.get("lower_bound"),
        "behavior_value": known.get("behavior_value"),
        "evaluation": {
            "dataset_id": known.get("ledger", {}).get("log"),
            "content_hash": known.get("ledger", {}).get("log's content hash"),
            "estimand": known.get("estimand", ""),
            "findings": [one for one in known.get("findings", []) if one not in training],
        },
        "findings": training,
        "files": hashes,
        "check": {
            "observations": checked_on,
            "largest_difference": {name: one.largest_difference for name, one in checks.items()},
            "ties": {name: one.ties for name, one in checks.items()},
        },
        "versions": {
            **{name: version(name) for name in ("lit_offrl", "torch", "lightning")},
            "python": platform.python_version(),
        },
        "intended_use": _intended(spec.dataset_id, known.get("conclusion")),
        "limits": [
            "It acts greedily on single observations, and knows nothing of what they leave out.",
            f"It was learned from {_sources(info.online_steps)}: where states or actions differ "
            "from what that holds, nothing is known of what it does.",
            "No unobserved confounding is assumed; no log can show that.",
            "It does not say when it is lost: watch it with `lit-offrl monitor`.",
        ],
    }


def _sources(online_steps: int) -> str:
    steps = f"this log and {online_steps:,} steps in the environment"
    return steps if online_steps else "this log alone"


def _intended(dataset_id: str, conclusion: str | None) -> str:
    if conclusion == "use":
        return f"The task that `{dataset_id}` was recorded in, under the same conditions."
    if conclusion is None:
        return "None yet: the policy was not evaluated. Run `lit-offrl evaluate` first."
    return f"Research on the task of `{dataset_id}`. The evaluation does not support its use."


def _plain(algorithm: OfflineAlgorithm) -> dict[str, Any]:
    """Arguments of the algorithm that JSON can hold."""
    arguments = dict(algorithm.hparams)
    return {k: v for k, v in arguments.items() if not k.startswith("_") and _is_plain(v)}


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def to_json(card: dict[str, Any]) -> str:
    """The card as JSON."""
    return json.dumps(card, indent=2) + "\n"


def to_markdown(card: dict[str, Any]) -> str:
    """The card for people."""
    data, check, evaluation = card["data"], card["check"], card["evaluation"]
    found = _findings(evaluation["findings"])
    differences = ", ".join(
        f"`{name}` by at most {value:.1e} of the range{_ties(check['ties'][name])}"
        for name, value in check["largest_difference"].items()
    )
    rows = {
        "learned from": _log_of(data),
        **({"evaluated on": _log_of(evaluation)} if evaluation["dataset_id"] else {}),
        "updates, seed": f"{card['updates']:,}, {card['seed']}",
        "discount": card["discount"],
        "online episodes spent in training": card["online_episodes_spent"],
        **({"fine-tuned on, steps": f"{n:,}"} if (n := card["online_steps"]) else {}),
        "differs from the trained policy": f"{differences} ({check['observations']})",
        "versions": ", ".join(f"{k} {v}" for k, v in card["versions"].items()),
    }
    loading = LOADING if "policy.onnx" in card["files"] else LOADING_TORCH
    return "\n".join(
        [
            f"# {card['algorithm']} on {data['dataset_id']}",
            "",
            f"**{card['conclusion'].upper()}.** {card['headline']} {card['why']}".rstrip(),
            "",
            f"Intended use: {card['intended_use']}",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in rows.items()),
            "",
            *_estimates(card),
            "## Findings of training",
            "",
            *(_findings(card["findings"]) or ["None."]),
            "",
            *(["## Findings of the evaluation", "", *found, ""] if found else []),
            "## Limits",
            "",
            *(f"- {limit}" for limit in card["limits"]),
            "",
            "## Loading",
            "",
            "```python",
            loading.format(obs_dim=card["input"]["shape"][1]),
            "```",
            "",
            "## Files",
            "",
            *(f"- `{name}` sha256 {value}" for name, value in card["files"].items()),
            "",
        ]
    )


def _log_of(data: dict[str, Any]) -> str:
    return f"`{data['dataset_id']}`, content {data['content_hash'][:12]}"


def _findings(findings: list[dict[str, Any]]) -> list[str]:
    return [f"- {f['name']} {f['verdict']}: {f['meaning']}" for f in findings]


def _ties(count: int) -> str:
    return f" but for {count} where two actions are equally good" if count else ""


def _estimates(card: dict[str, Any]) -> list[str]:
    """Valid off-policy estimates as a table; nothing without an evaluation."""
    valid = [one for one in card["estimates"] if one["status"] == "valid"]
    if not valid:
        return []
    return [
        "## Off-policy estimates of the discounted return",
        "",
        card["evaluation"]["estimand"],
        "",
        "| estimator | value | interval |",
        "|---|---|---|",
        *(f"| {one['name']} | {one['value']:.4g} | {_interval(one)} |" for one in valid),
        "",
    ]


def _interval(estimate: dict[str, Any]) -> str:
    low_high = estimate.get("interval")
    return "" if not low_high else f"{low_high[0]:.4g} to {low_high[1]:.4g}"
