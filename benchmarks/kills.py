"""Whether runs that are killed at random moments, and resumed, end as if nothing had happened.

    python benchmarks/kills.py --trials 30

Each trial kills ``lit-offrl fit`` with SIGKILL once or twice, resumes it with ``--ckpt_path last``,
and compares weights, optimizers, callback states, metrics.csv and TensorBoard's curves with those
of a run that was left alone, bit for bit. The algorithms take turns. What comes after ``--`` is
passed on to ``lit-offrl fit``.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.cli.killing import Killed, Whole, run_killed, run_whole

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


def main() -> None:
    """Run the trials, one line each, and exit with 1 if one differs."""
    arguments = _parsed()
    wholes: dict[str, Whole] = {}
    n_same = n_kills = 0
    with tempfile.TemporaryDirectory(prefix="kills-") as place:
        for i in range(arguments.first, arguments.first + arguments.trials):
            model = list(DATA)[i % len(DATA)]
            if model not in wholes:
                wholes[model] = _whole(model, Path(place), arguments.options)
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
    parser.add_argument("options", nargs="*", help="`-- --name value ...` for lit-offrl fit")
    return parser.parse_args()


if __name__ == "__main__":
    main()
