"""Seconds and peak memory of `lit-offrl inspect` on a random log of Hopper's shape.

python benchmarks/inspecting.py 1000000
"""

import resource
import sys
import time

import numpy as np
from gymnasium.spaces import Box

from lit_offrl.data import Transitions
from lit_offrl.data.spec import make_spec
from lit_offrl.inspection import inspect_transitions

OBS_DIM, ACTION_DIM, STEPS = 11, 3, 500


def random_log(rows: int, seed: int = 0) -> Transitions:
    """Make continuous episodes of 500 steps."""
    rng = np.random.default_rng(seed)
    episodes = rows // STEPS
    path = rng.standard_normal((episodes, STEPS + 1, OBS_DIM), dtype=np.float32)
    rows = episodes * STEPS
    return Transitions(
        obs=path[:, :-1].reshape(rows, OBS_DIM),
        action=rng.uniform(-1, 1, (rows, ACTION_DIM)).astype(np.float32),
        reward=rng.standard_normal(rows, dtype=np.float32),
        next_obs=path[:, 1:].reshape(rows, OBS_DIM),
        terminated=np.zeros(rows, bool),
        truncated=np.arange(rows) % STEPS == STEPS - 1,
        episode=np.repeat(np.arange(episodes), STEPS),
    )


def peak() -> float:
    """Peak resident memory of this process, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Measure and print one line."""
    log = random_log(int(sys.argv[1]))
    action = Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
    spec = make_spec("random", "", Box(-np.inf, np.inf, (OBS_DIM,), np.float32), action, log)
    before, start = peak(), time.perf_counter()
    inspect_transitions(log, spec)
    seconds = time.perf_counter() - start
    print(f"{len(log):,} rows: {seconds:.1f} s, peak {peak():.0f} MB, {before:.0f} MB before")


if __name__ == "__main__":
    main()
