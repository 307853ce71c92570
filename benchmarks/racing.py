"""Processes that are timed in turn, burst by burst, on one core, and the data they train on."""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
OBS_DIM, ACTION_DIM, N_ACTIONS = 11, 3, 3  # Hopper's; the discrete set has as many actions
Answer = dict[str, Any]
Key = TypeVar("Key", bound=Hashable)


class Worker:
    """A process that answers requests with one thread.

    Args:
        module: What ``python -m`` runs.
        python: Which Python; by default this one.
        core: Core to pin the process to, where the system can.
        env: Environment variables that differ from this process's.
    """

    def __init__(
        self,
        module: str,
        python: str = sys.executable,
        core: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        pinned = core is not None and shutil.which("taskset")
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [*(["taskset", "-c", str(core)] if pinned else []), python, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'callbacks'}",
                "OMP_NUM_THREADS": "1",
                **(env or {}),
            },
        )

    def ask(self, **request: Any) -> Answer:
        """Send a request and wait for the reply.

        Raises:
            RuntimeError: With the end of what the process printed, if it died.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # then there is no reply either
            print(json.dumps(request), file=self._process.stdin, flush=True)
        reply = self._process.stdout.readline()
        if not reply:
            self._log.seek(0)
            raise RuntimeError(f"A worker died:\n{self._log.read()[-2000:]}")
        answer: Answer = json.loads(reply)
        return answer

    def close(self) -> None:
        """End the process, in the middle of a run too."""
        self._process.kill()
        self._process.communicate()
        self._log.close()


@dataclass
class Racer:
    """A worker and what it is asked to time.

    Args:
        worker: The process.
        request: The request, without the number of updates.
        updates: Length of a burst.
    """

    worker: Worker
    request: Answer
    updates: int = 0

    def burst(self) -> Answer:
        """Time one burst."""
        return self.worker.ask(**self.request, updates=self.updates)

    def calibrate(self, seconds: float, multiple: int = 8, warm_up: int = 0) -> float:
        """Warm up, then set the length of a burst; return the CPU seconds of an update.

        Args:
            seconds: CPU time of a burst, at most.
            multiple: The number of updates is a multiple of this.
            warm_up: Updates before the first that counts, at least: what is done now and
                then, as a hard target step, is compiled when it is first done.
        """
        self.updates = max(2 * multiple, warm_up)
        self.burst()
        self.updates = 2 * multiple
        update: float = self.burst()["seconds"]
        self.updates = max(2, round(seconds / update / multiple)) * multiple
        return update


def interleave(racers: Mapping[Key, Racer], rounds: int) -> dict[Key, list[Answer]]:
    """Let racers run bursts in turn, every other round in reverse."""
    answers: dict[Key, list[Answer]] = {name: [] for name in racers}
    order = list(racers)
    for _ in range(rounds):
        for name in order:
            answers[name].append(racers[name].burst())
        order.reverse()
    return answers


def median_seconds(answers: list[Answer]) -> float:
    """Median over bursts of the CPU seconds of an update."""
    seconds: list[float] = [answer["seconds"] for answer in answers]
    return statistics.median(seconds)


def write_random(path: Path, n: int, discrete: bool = False) -> None:
    """Write random transitions as a D4RL file: speed does not depend on what is in them."""
    rng = np.random.default_rng(0)
    action: Any = rng.uniform(-1, 1, (n, ACTION_DIM)).astype(np.float32)
    if discrete:
        action = rng.integers(N_ACTIONS, size=n)
    timeout = np.arange(1, n + 1) % 500 == 0
    with h5py.File(path, "w") as file:
        file["observations"] = rng.standard_normal((n, OBS_DIM), dtype=np.float32)
        file["next_observations"] = rng.standard_normal((n, OBS_DIM), dtype=np.float32)
        file["actions"] = action
        file["rewards"] = rng.standard_normal(n, dtype=np.float32)
        file["terminals"] = (rng.random(n) < 0.003) & ~timeout
        file["timeouts"] = timeout
