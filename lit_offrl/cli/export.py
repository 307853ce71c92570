"""``lit-offrl export``: write a policy that runs without this library, and its card."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lit_offrl.checkpoint import LoadedPolicy, load
from lit_offrl.cli.parsing import OneLineParser, make_writable
from lit_offrl.cli.run_folder import run_of
from lit_offrl.deploy.exporting import Format, export_policy

_log = logging.getLogger(__name__)


def main(args: Sequence[str]) -> Path:
    """Export a checkpoint, print its files and a sentence, and return the folder."""
    config = _parser().parse_args(list(args))
    path = Path(config.checkpoint).expanduser()
    policy = load(path)
    folder = Path(config.out).resolve() if config.out else run_of(path) / "export" / path.stem
    make_writable(folder.parent, "--out")
    evaluation = _evaluation(path, policy)
    card = export_policy(policy, folder, config.format, evaluation, config.overwrite)
    table = Table("file", "size, kB", "largest difference from the policy")
    for file in sorted(folder.iterdir()):
        difference = card["check"]["largest_difference"].get(file.name)
        size = f"{file.stat().st_size / 1000:.0f}"
        table.add_row(str(file), size, "" if difference is None else f"{difference:.1e}")
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"The files act as the policy does at {card['check']['observations']}. "
        f"Intended use: {card['intended_use']}"
    )
    return folder


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="lit-offrl export",
        description="Write a policy that runs without this library, with its model card.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=str, help="Checkpoint of `lit-offrl fit`.")
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="Folder of the files; by default `export/NAME` in the checkpoint's run folder.",
    )
    parser.add_argument("--format", type=Format, default="both", help="Which graphs to write.")
    parser.add_argument(
        "--overwrite", type=bool, default=False, help="Whether the folder may be there before."
    )
    return parser


def _evaluation(path: Path, policy: LoadedPolicy) -> dict[str, Any] | None:
    """What an evaluation of this very policy left; the checkpoint may have been replaced since."""
    report = run_of(path) / "evaluation" / path.stem / "report.json"
    if not report.is_file():
        return None
    values: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
    ledger, info, spec = values["ledger"], policy.info, policy.spec
    judged = [ledger[key] for key in ("gradient updates", "training seed", "its content hash")]
    if judged != [info.updates, info.seed, spec.content_hash]:
        _log.warning(
            "%s is of another state of the checkpoint (update %s, not %d) and is left out of the "
            "card: run `lit-offrl evaluate` again.",
            report,
            judged[0],
            info.updates,
        )
        return None
    return values
