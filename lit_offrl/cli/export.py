"""``lit-offrl export``: write a policy that runs without this library, and its card."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from lit_offrl.checkpoint import load
from lit_offrl.cli.judged import evaluation_of
from lit_offrl.cli.parsing import OneLineParser, make_writable
from lit_offrl.cli.run_folder import run_of
from lit_offrl.cli.tables import folding_table
from lit_offrl.deploy.exporting import Format, export_policy


def main(args: Sequence[str]) -> Path:
    """Export a checkpoint, print its files and a sentence, and return the folder."""
    config = _parser().parse_args(list(args))
    path = Path(config.checkpoint).expanduser()
    policy = load(path)
    folder = Path(config.out).resolve() if config.out else run_of(path) / "export" / path.stem
    make_writable(folder.parent, "--out")
    evaluation = evaluation_of(path, policy, "greedy")  # as the graphs act
    card = export_policy(policy, folder, config.format, evaluation, config.overwrite)
    table = folding_table("file", "size, kB", "largest difference from the policy")
    for file in sorted(folder.iterdir()):
        difference = card["check"]["largest_difference"].get(file.name)
        size = f"{file.stat().st_size / 1000:.0f}"
        table.add_row(file.name, size, "" if difference is None else f"{difference:.1e}")
    console = Console(highlight=False, soft_wrap=True, markup=False)
    console.print(table)
    console.print(
        f"Files: {folder}\nThey act as the policy does at {card['check']['observations']}. "
        f"Intended use: {card['intended_use']}"
    )
    return folder


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="lit-offrl export",
        description="Write a policy that runs without this library, with its model card.",
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", type=str, help="Checkpoint of `lit-offrl fit` or `finetune`.")
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
