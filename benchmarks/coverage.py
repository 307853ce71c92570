"""Measure how often nominal 95 % intervals of off-policy estimates hold the exact value.

The MDP is Chain-5 of the tests, whose value is solved exactly. Prints a Markdown table.

    python -m benchmarks.coverage --repetitions 300
"""

import argparse

from tests.evaluation.estimators.chain5_log import coverage


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=300)
    parser.add_argument("--episodes", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    columns = [coverage(n, arguments.repetitions, arguments.seed) for n in arguments.episodes]
    print("| Estimator |", *(f"n = {n} |" for n in arguments.episodes))
    print("|---|" + "---|" * len(columns))
    for name in columns[0]:
        print(f"| {name} |", *(f"{column[name]:.3f} |" for column in columns))


if __name__ == "__main__":
    main()
