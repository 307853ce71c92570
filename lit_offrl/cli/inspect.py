"""``lit-offrl inspect``: what a log holds, what is wrong with it, and what to try on it."""

import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from jsonargparse import Namespace
from rich.console import Console

from lit_offrl.cli.evaluated import StageProgress
from lit_offrl.cli.parsing import OneLineParser, make_writable
from lit_offrl.cli.run_folder import dataset_folder
from lit_offrl.cli.tables import folding_table
from lit_offrl.errors import InputError
from lit_offrl.inspection import Answers, DataReport, inspect
from lit_offrl.inspection.questions import QUESTIONS, read_answers
from lit_offrl.inspection.recommendation import Recommendation
from lit_offrl.inspection.report import BEHAVIOR_UPDATES
from lit_offrl.report.inspection import write_inspection


def main(args: Sequence[str]) -> Path:
    """Inspect a data set, print two tables and a sentence, and return the report's path."""
    config = _parser().parse_args(list(args))
    if config.behavior_updates < 0:
        raise InputError("`--behavior_updates` must be 0 or more.")
    answers = _answers(config)
    folder = Path(config.out or Path("runs/inspect") / dataset_folder(config.dataset))
    with StageProgress(config.dataset) as progress:
        report = inspect(config.dataset, config.behavior_updates, progress)
    make_writable(folder, "--out")
    path = write_inspection(report, folder, answers)
    _print(report, report.recommendation(answers), path)
    return path


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="lit-offrl inspect",
        description="Say what a data set holds, what is wrong with it, and what to try on it.",
        allow_abbrev=False,
    )
    parser.add_argument("dataset", type=str, help="Minari id, built-in set or D4RL file.")
    for name, question in QUESTIONS.items():
        parser.add_argument(f"--{name}", type=bool | None, default=None, help=question)
    parser.add_argument("--answers", type=str | None, default=None, help="YAML file of answers.")
    parser.add_argument("--ask", action="store_true", help="Ask open questions in the terminal.")
    parser.add_argument(
        "--behavior_updates",
        type=int,
        default=BEHAVIOR_UPDATES,
        help="Gradient updates of the behavior model; 0 leaves it out.",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="Folder of the report; by default runs/inspect/DATASET.",
    )
    return parser


def _answers(config: Namespace) -> Answers:
    """Answers of the file, then of the options, then of the terminal."""
    answers = read_answers(Path(config.answers)) if config.answers else Answers()
    given = {f.name: config[f.name] for f in fields(Answers) if config[f.name] is not None}
    answers = replace(answers, **given)
    if config.ask and sys.stdin.isatty():
        for name, question in QUESTIONS.items():
            if getattr(answers, name) is None:
                reply = input(f"{question} [yes/no/Enter to leave it open] ").strip().lower()
                if reply in ("y", "yes", "n", "no"):
                    answers = replace(answers, **{name: reply.startswith("y")})
    return answers


def _print(report: DataReport, advice: Recommendation, path: Path) -> None:
    """Print what was found, what to try, and the sentence."""
    console = Console(highlight=False, markup=False)
    table = folding_table("finding", "", "meaning", title=report.spec.dataset_id)
    for one in report.findings:
        table.add_row(one.name, one.verdict, f"{one.meaning} {one.advice}".strip())
    console.print(table)
    if advice.candidates:
        ranked = folding_table("try", "start from", "conservatism", "evidence", "confidence")
        for c in advice.candidates:
            ranked.add_row(c.algorithm, c.config, c.conservatism, c.evidence, c.confidence)
        console.print(ranked)
    for question in advice.open_questions:
        console.print(f"open: {question}", soft_wrap=True)
    console.print(advice.sentence, soft_wrap=True)
    console.print(f"Report: {path}", soft_wrap=True)
