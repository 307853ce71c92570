"""``lit-offrl collect``: record policies in an environment as a Minari set."""

import shlex
from collections.abc import Sequence

import numpy as np
from jsonargparse import Namespace
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from lit_offrl.checkpoint import load
from lit_offrl.cli.parsing import OneLineParser, check_seed
from lit_offrl.cli.tables import folding_table
from lit_offrl.data import load_dataset
from lit_offrl.errors import EnvironmentFailed, InputError
from lit_offrl.online.acting import is_checkpoint
from lit_offrl.online.collecting import Recipe, collect
from lit_offrl.online.exploration import Exploration


def main(args: Sequence[str]) -> str:
    """Record, print what was recorded, and return the id of the set."""
    config = _parser().parse_args(list(args))
    policies = tuple(config.policy or ["random"])
    check_seed("--seed", config.seed)
    _refuse_unused(config, policies)
    recipe = Recipe(
        config.env,
        policies,
        tuple(config.share or [1.0] * len(policies)),
        config.dataset_id,
        config.steps,
        config.episodes,
        config.seed,
        Exploration(config.noise, config.sample_scale, config.epsilon),
        config.ref_scores,
    )
    console = Console(highlight=False, soft_wrap=True, markup=False)
    columns = TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("steps" if recipe.steps else "episodes", total=None)
        kept = (
            f"Episodes before are kept; go on with `{shlex.join(['lit-offrl', 'collect', *args])}`."
        )
        try:
            dataset = collect(recipe, lambda done, of: bar.update(task, completed=done, total=of))
        except EnvironmentFailed as error:
            raise InputError(f"{error}. {kept}") from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted. {kept}") from None
    _summarize(recipe, dataset.storage.get_episode_metadata(range(dataset.total_episodes)), console)
    return recipe.dataset_id


def _refuse_unused(config: Namespace, policies: Sequence[str]) -> None:
    """Refuse what says how policies act that are not there."""
    discrete = [load(name).spec.discrete for name in policies if is_checkpoint(name)]
    for name, default, used in (
        ("noise", 0.0, False in discrete),
        ("sample_scale", 1.0, bool(discrete)),
        ("epsilon", 0.0, True in discrete),
    ):
        if config[name] != default and not used:
            kind = {"noise": " of a Box policy", "epsilon": " of a discrete policy"}.get(name, "")
            raise InputError(
                f"`--{name}` is for a checkpoint{kind}, and none is among the policies: leave it "
                "out."
            )
    if config.ref_scores and policies[0] == "random":
        raise InputError(
            "`--ref_scores` compares the first policy with random actions: name another first."
        )


def _summarize(recipe: Recipe, metadata: object, console: Console) -> None:
    """Print returns by policy, and whether the log has propensities."""
    transitions, _ = load_dataset(recipe.dataset_id)
    returns, lengths = transitions.returns(), np.diff(transitions.episode_bounds)
    who = np.array([str(episode["behavior"]) for episode in metadata])  # type: ignore[attr-defined]
    table = folding_table("policy", "episodes", "steps", "mean return")
    for name in dict.fromkeys(recipe.policies):
        own = who == name
        if own.any():
            mean = f"{returns[own].mean():.4g}"
            table.add_row(name, str(own.sum()), f"{lengths[own].sum():,}", mean)
    console.print(table)
    known = "with" if transitions.behavior_log_prob is not None else "without"
    console.print(
        f"`{recipe.dataset_id}` holds {len(transitions):,} steps in {len(returns)} episodes, "
        f"{known} logged propensities: train on it with `--data.dataset_id {recipe.dataset_id}`."
    )


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog="lit-offrl collect",
        description="Record policies in an environment as a Minari set.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--env", type=str, required=True, help="Environment, from Gymnasium's registry.")
    add(
        "--policy",
        type=str,
        nargs="+",
        help="Each `random` (the default), a checkpoint, or `module:function`.",
    )
    add("--share", type=float, nargs="+", help="Share of the steps of each policy; equal if null.")
    add("--dataset_id", type=str, required=True, help="Id of the set, as `my/mixed-v0`.")
    add("--steps", type=int | None, default=None, help="Environment steps.")
    add("--episodes", type=int | None, default=None, help="Episodes, instead of steps.")
    add("--seed", type=int, default=0, help="Seed of everything that is drawn.")
    add("--noise", type=float, default=0.0, help="σ added to a deterministic checkpoint's action.")
    add(
        "--sample_scale",
        type=float,
        default=1.0,
        help="Factor on a stochastic one's σ, temperature of a discrete one; 0: greedy.",
    )
    add("--epsilon", type=float, default=0.0, help="Probability of a uniform discrete action.")
    add(
        "--ref_scores",
        type=bool,
        default=False,
        help="Whether to store the mean returns of random actions and of the first policy.",
    )
    return parser
