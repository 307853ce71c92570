"""Whether runs that are killed at random moments, and resumed, end as if nothing had happened.

    python benchmarks/kills.py --trials 30

Each trial kills ``lit-offrl fit`` with SIGKILL once or twice, resumes it with ``--ckpt_path last``,
and compares weights, optimizers, callback states, metrics.csv and TensorBoard's curves with those
of a run that was left alone, bit for bit; ``--finetune`` kills ``lit-offrl finetune``, whose
buffer, episodes and environments are compared too. The algorithms take turns. What comes after
``--`` is passed on to the verb.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.cli.killing import Killed, Whole, run_killed, run_verb, run_whole

PENDULUM, CARTPOLE = "pendulum/mixed", "cartpole/mixed"
DATA = {
    "BC": PENDULUM,
    "TD3BC": PENDULUM,
    "IQL": PENDULUM,
    "CQL": PENDULUM,
    "BCQ": PENDULUM,
    "DQN": CARTPOLE,
    "DiscreteCQL": CARTPOLE,
    "DiscreteIQL": CARTPOLE,
    "DiscreteBCQ": CARTPOLE,
}
FINETUNED = {
    "IQL": "--num_envs 2",
    "CalQL": "--offline_fraction 0.25 --model.policy_lr 1e-3",
    "TD3BC": "--utd 0.5 --warmup_steps 40 --kl_budget 1",
    "DiscreteCQL": "--utd 2 --num_envs 3 --offline_fraction 1 --final_fraction 0",
}
"""Algorithm -> options with which it is fine-tuned."""
SHORT = "--steps 400 --eval_every 40 --eval_episodes 1 --before_episodes 2 --batch_size 32"


def main() -> None:
    """Run the trials, one line each, and exit with 1 if one differs."""
    arguments = _parsed()
    wholes: dict[str, Whole] = {}
    n_same = n_kills = 0
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        for i in range(arguments.first, arguments.first + arguments.trials):
            models = list(FINETUNED if arguments.finetune else DATA)
            model = models[i % len(models)]
            if model not in wholes:
                make = _finetuned if arguments.finetune else _whole
                wholes[model] = make(model, Path(place), arguments.options)
            draw = random.Random(i)
            outcome = run_killed(wholes[model], Path(place) / "run", draw.choice((1, 1, 2)), draw)
            n_same += not outcome.differences
            n_kills += len(outcome.updates)
            print(_line(i, model, outcome), flush=True)
    print(f"{n_same} of {arguments.trials} runs, killed {n_kills} times, are equal bit for bit")
    sys.exit(n_same != arguments.trials)


def _whole(model: str, place: Path, options: list[str]) -> Whole:
    """Run without a kill; every other algorithm trains on all episodes, without validation."""
    given = {"data.dataset_id": DATA[model], "data.held_out": 0.1 * (list(DATA).index(model) % 2)}
    pairs = zip(options[::2], options[1::2], strict=True)
    given |= {name.removeprefix("--"): value for name, value in pairs}
    return run_whole(model, given, place / model)


def _finetuned(model: str, place: Path, options: list[str]) -> Whole:
    """Train offline for a few updates, then fine-tune without a kill."""
    offline = place / f"{model}-offline"
    given = {"data.dataset_id": CARTPOLE if model.startswith("Discrete") else PENDULUM}
    run_whole(model, {**given, "trainer.max_steps": 24, "diagnostics": "false"}, offline)
    checkpoint = offline / "checkpoints" / "last.ckpt"
    arguments = (*FINETUNED[model].split(), *SHORT.split(), "--progress", "false", *options)
    return run_verb(("finetune", str(checkpoint), *arguments), place / model)


def _line(trial: int, model: str, outcome: Killed) -> str:
    updates = ", ".join(map(str, outcome.updates))
    said = "differs: " + "; ".join(outcome.differences) if outcome.differences else "equal"
    return f"{trial:3d}  {model:12s} killed; checkpoint of update {updates:12s} {said}"


def _parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
    )
    parser.add_argument("--trials", type=int, default=30, help="number of trials")
    parser.add_argument("--first", type=int, default=0, help="number and seed of the first trial")
    parser.add_argument("--finetune", action="store_true", help="kill `lit-offrl finetune`")
    parser.add_argument("options", nargs="*", help="`-- --name value ...` for the verb")
    return parser.parse_args()


if __name__ == "__main__":
    main()
