"""``lit-offrl evaluate``: what a log says of trained policies, before they touch the world."""

import contextlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from lit_offrl.checkpoint import LoadedPolicy, load
from lit_offrl.cli.evaluated import Evaluated, StageProgress, print_one, print_ranking
from lit_offrl.cli.parsing import OneLineParser, make_writable, use_threads
from lit_offrl.cli.run_folder import run_of
from lit_offrl.data import DatasetSpec, Transitions, load_dataset
from lit_offrl.errors import InputError
from lit_offrl.evaluation.off_policy import LogEvaluator
from lit_offrl.evaluation.online import play_online
from lit_offrl.evaluation.policy_evaluation import OffPolicyOptions
from lit_offrl.report import write_report


def main(args: Sequence[str]) -> list[Path]:
    """Evaluate checkpoints, print a table and a sentence, and return the reports' paths."""
    config = _parser().parse_args(list(args))
    use_threads(config.threads)
    options = OffPolicyOptions(**{key: config[key] for key in OffPolicyOptions.__annotations__})
    if config.online < 0 or config.online == 1:  # before hours of work
        raise InputError(f"`--online` takes 2 episodes or more, not {config.online}.")
    paths = [Path(path).expanduser() for path in config.checkpoints]
    policies = [load(path) for path in paths]
    transitions, spec = _log(config, paths, policies)
    discount = _discount(config, paths, policies)
    folders = [_folder(config.out, path, len(paths) > 1) for path in paths]
    for folder in folders:
        make_writable(folder, "--out")
    command = shlex.join(["lit-offrl", "evaluate", *args])
    evaluators: dict[str, LogEvaluator] = {}
    done: list[Evaluated] = []
    try:
        for path, policy, folder in zip(paths, policies, folders, strict=True):
            with StageProgress(str(path)) as progress:
                key = repr(policy.scaling.to_dict())
                if key not in evaluators:
                    evaluators[key] = LogEvaluator(
                        transitions, spec, policy.scaling, discount, options, progress
                    )
                evaluators[key].progress = progress
                evaluation = evaluators[key].evaluate(policy.algorithm)
                played = None
                if config.online:
                    progress("episodes in the environment", 0.0)
                    played = play_online(
                        policy,
                        evaluators[key].target(policy.algorithm),
                        evaluation,
                        transitions,
                        config.online,
                        options.level,
                        config.online_seed,
                        config.env_id,
                    )
            one = Evaluated(path, policy, evaluation, played, options, spec, command)
            done.append(one)
            one.report_path = write_report(one.report(), folder)
            print_one(one)
    finally:
        for folder in folders[len(done) :]:
            _remove_empty(folder)
        if len(done) > 1:
            print_ranking(done)
    return [one.report_path for one in done if one.report_path is not None]


def _remove_empty(folder: Path) -> None:
    """Remove a folder that was made for a report that did not come, and empty ones above it."""
    with contextlib.suppress(OSError):  # they may hold other things
        for path in (folder, *folder.parents):
            path.rmdir()


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="lit-offrl evaluate",
        description="Estimate from a log what trained policies would return.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoints", nargs="+", type=str, help="Checkpoints of `lit-offrl fit` or `finetune`."
    )
    parser.add_argument(
        "--dataset_id",
        type=str | None,
        default=None,
        help="Log to evaluate on; by default the data set of training, held-out episodes included.",
    )
    parser.add_argument(
        "--online",
        type=int,
        default=0,
        help="Episodes to play with each policy in the environment, to see how far estimates are "
        "off; 0 never enters it.",
    )
    parser.add_argument("--online_seed", type=int, default=20_000, help="First episode's seed.")
    parser.add_argument(
        "--env_id", type=str | None, default=None, help="Environment; the recorded one if null."
    )
    parser.add_argument(
        "--discount",
        type=float | None,
        default=None,
        help="γ of all values; that of training if null.",
    )
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="Folder of the report; by default `evaluation/NAME` in the checkpoint's run folder.",
    )
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads to use.")
    parser.add_class_arguments(OffPolicyOptions)
    return parser


def _log(
    config: Namespace, paths: Sequence[Path], policies: Sequence[LoadedPolicy]
) -> tuple[Transitions, DatasetSpec]:
    """Load the log, and see that it is the policies'."""
    first = policies[0].spec
    for path, policy in zip(paths, policies, strict=True):
        if policy.spec.content_hash != first.content_hash and config.dataset_id is None:
            raise InputError(
                f"`{path}` was trained on `{policy.spec.dataset_id}`, `{paths[0]}` on "
                f"`{first.dataset_id}`: name the log to judge both on with `--dataset_id`."
            )
    transitions, spec = load_dataset(config.dataset_id or first.dataset_id)
    if config.dataset_id is None and spec.content_hash != first.content_hash:
        raise InputError(
            f"`{spec.dataset_id}` is not what `{paths[0]}` was trained on (content "
            f"{spec.content_hash[:8]}, not {first.content_hash[:8]}): name the log to judge it on "
            "with `--dataset_id`."
        )
    for path, policy in zip(paths, policies, strict=True):
        known = policy.spec
        shapes = [(s.obs_dim, s.action_dim, s.discrete) for s in (known, spec)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"`{path}` knows {known.obs_dim} observation features and {known.action_dim} "
                f"{'discrete ' if known.discrete else ''}actions, `{spec.dataset_id}` has "
                f"{spec.obs_dim} and {spec.action_dim}: give a log of the same task."
            )
    return transitions, spec


def _discount(config: Namespace, paths: Sequence[Path], policies: Sequence[LoadedPolicy]) -> float:
    """The one discount of all policies, or the one asked for."""
    if config.discount is not None:
        if not 0 <= config.discount <= 1:
            raise InputError(f"`--discount` must lie in [0, 1], not {config.discount}.")
        return float(config.discount)
    found = {policy.algorithm.discount: path for path, policy in zip(paths, policies, strict=True)}
    if len(found) > 1:
        (a, one), (b, other), *_ = found.items()
        raise InputError(
            f"`{one}` was trained with discount {a}, `{other}` with {b}: their values cannot be "
            "compared. Name one with `--discount`."
        )
    return float(next(iter(found)))


def _folder(out: str | None, path: Path, several: bool) -> Path:
    """Where the report of a checkpoint goes."""
    if out is None:
        return run_of(path) / "evaluation" / path.stem
    if not several:
        return Path(out)
    name = "-".join(part for part in path.with_suffix("").parts[-4:] if part != "checkpoints")
    return Path(out) / name.strip("/.")
