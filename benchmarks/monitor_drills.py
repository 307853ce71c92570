"""Drills of the deployment monitor: worlds that change and worlds that do not.

    python benchmarks/monitor_drills.py              Chain-5 and CartPole
    python benchmarks/monitor_drills.py CHECKPOINT...   checkpoints of Hopper, friction x 1.5; needs
                                                        MuJoCo and the checkpoints' data sets

Prints a table: verdict, episodes until it, and until returns alone alarmed. An unchanged world is
replayed many times: at most 5 in 100 replays may alarm.
"""

import copy
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the drills' worlds are the tests'

from lit_offrl.checkpoint import LoadedPolicy, load
from lit_offrl.data import Transitions, load_dataset
from lit_offrl.data.builtin.cartpole import controller
from lit_offrl.evaluation.environment import make_env
from lit_offrl.online.monitor.deployment import DeploymentMonitor
from lit_offrl.online.monitor.reference import EpisodeScores
from lit_offrl.online.monitor.seen import Prediction
from tests.evaluation.fakes import identity_scaling
from tests.online.monitor import worlds

REPLAYS, EPISODES = 100, 40
Play = Callable[[int], Transitions]
"""Plays :data:`EPISODES` episodes from a seed on."""


def watch(monitor: DeploymentMonitor, episodes: Transitions) -> DeploymentMonitor:
    """Add episodes to a copy of a fresh monitor."""
    watching = copy.deepcopy(monitor)
    for episode in worlds.episodes_of(episodes):
        watching.add(episode)
    return watching


def predicted(episodes: Transitions, discount: float) -> Prediction:
    """Mean return of accepted episodes and its 95 % interval."""
    values = episodes.mc_returns(discount)[episodes.episode_bounds[:-1]]
    mean, error = float(values.mean()), 1.96 * float(values.std()) / len(values) ** 0.5
    return Prediction(mean, mean - error, mean + error, "accepted episodes")


def report(
    world: str, monitor: DeploymentMonitor, drills: dict[str, Play], unchanged: Play, replays: int
) -> Iterator[str]:
    """Rows of the table for one world."""
    basis = "accepted episodes" if monitor.calibrated else "log"
    for name, play in drills.items():
        found = watch(monitor, play(50_000)).conclusion
        returns = found.alarms.get("returns", "-")
        yield f"| {world} | {name} | {basis} | {found.change} | {found.delay or '-'} | {returns} |"
    alarms = Counter(
        watch(monitor, unchanged(100_000 + 1000 * i)).conclusion.change for i in range(replays)
    )
    said = ", ".join(f"{change} {count}" for change, count in alarms.items())
    yield f"| {world} | unchanged, {replays} replays | {basis} | {said} | - | - |"


def chain() -> Iterator[str]:
    """Chain-5: slip, rewards, another policy."""
    spec, log = worlds.chain_spec(), worlds.chain(300, 0, right=0.6)
    scaling, policy = identity_scaling(spec), worlds.chain_policy()
    accepted = worlds.chain(150, 1, right=0.9)
    drills: dict[str, Play] = {
        "slip 0.1 to 0.3": lambda seed: worlds.chain(EPISODES, seed, 0.9, slip=0.3),
        "reward x 2": lambda seed: worlds.scaled(worlds.chain(EPISODES, seed, 0.9), 2),
        "random policy": lambda seed: worlds.chain(EPISODES, seed, 0.5),
    }
    for calibration in (None, accepted):
        monitor = DeploymentMonitor(
            policy,
            log,
            spec,
            scaling,
            prediction=predicted(accepted, policy.discount),
            calibration=calibration,
            policy="sampled",
        )
        yield from report(
            "Chain-5", monitor, drills, lambda s: worlds.chain(EPISODES, s, 0.9), REPLAYS
        )


def cartpole() -> Iterator[str]:
    """CartPole: force, rewards, another policy, a sensor."""
    spec, log = worlds.cartpole_spec(), worlds.cartpole(160, 0, controller(epsilon=0.4))
    scaling, accepted = worlds.standard(log, spec), worlds.cartpole(60, 10_000)
    policy = worlds.Balancer(scaling)
    drills: dict[str, Play] = {
        "force x 1.5": lambda seed: worlds.cartpole(EPISODES, seed, force_mag=15.0),
        "reward x 2": lambda seed: worlds.scaled(worlds.cartpole(EPISODES, seed), 2),
        "random policy": lambda seed: worlds.cartpole(EPISODES, seed, controller(epsilon=1.0)),
        "angle sensor off by 0.1": lambda seed: worlds.cartpole(EPISODES, seed, offset=0.1),
    }
    for calibration in (None, accepted):
        monitor = DeploymentMonitor(
            policy,
            log,
            spec,
            scaling,
            prediction=predicted(accepted, policy.discount),
            calibration=calibration,
        )
        yield from report(
            "CartPole", monitor, drills, lambda s: worlds.cartpole(EPISODES, s), REPLAYS
        )


def hopper(checkpoint: str, accepted: int = 60, replays: int = 100) -> Iterator[str]:
    """Hopper of a checkpoint: friction x 1.5. Replays draw from one pool of episodes."""
    policy = load(checkpoint)
    world = f"Hopper, {type(policy.algorithm).__name__}"
    log, spec = load_dataset(policy.spec.dataset_id)
    known, pool = play(policy, accepted, 0), play(policy, 2 * EPISODES, 10_000)
    drills: dict[str, Play] = {
        "friction x 1.5": lambda seed: play(policy, EPISODES, seed, friction=1.5),
        "reward x 2": lambda seed: worlds.scaled(play(policy, EPISODES, seed), 2),
    }

    def again(seed: int) -> Transitions:
        order = np.random.default_rng(seed).permutation(pool.n_episodes)
        return pool.select_episodes(order[: EPISODES // 2])

    for calibration in (None, known):
        monitor = DeploymentMonitor(
            policy.algorithm,
            log,
            spec,
            policy.scaling,
            prediction=predicted(known, policy.algorithm.discount),
            calibration=calibration,
        )
        remembered = Remembering(monitor.model.scores)
        monitor.model.scores = remembered  # type: ignore[method-assign]
        yield from report(world, monitor, drills, again, replays)


class Remembering:
    """Scores each episode of the pool once, and not in every replay."""

    def __init__(self, scores: Callable[[Transitions], EpisodeScores]) -> None:
        self._scores = scores
        self._known: dict[bytes, EpisodeScores] = {}

    def __call__(self, episode: Transitions) -> EpisodeScores:
        """Return the scores of an episode."""
        key = episode.obs.tobytes()
        if key not in self._known:
            self._known[key] = self._scores(episode)
        return self._known[key]

    def __deepcopy__(self, memo: object) -> "Remembering":
        return self


def play(policy: LoadedPolicy, episodes: int, seed: int, friction: float = 1.0) -> Transitions:
    """Play episodes in the recorded environment with another friction."""
    env: gym.Env[np.ndarray, np.ndarray] = make_env(policy.spec)
    env.unwrapped.model.geom_friction[:] *= friction  # type: ignore[attr-defined]
    rows = []
    for number in range(episodes):
        obs, done = env.reset(seed=seed + number)[0], False
        while not done:
            action = policy(obs)
            after, reward, terminated, truncated, _ = env.step(action)
            rows.append((obs, action, reward, after, terminated, truncated, number))
            obs, done = after, terminated or truncated
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    types = (np.float32, np.float32, np.float32, np.float32, np.bool_, np.bool_, np.int64)
    flat: list[Any] = [c.astype(t) for c, t in zip(columns, types, strict=True)]
    return Transitions(*flat)


def main(arguments: Sequence[str]) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print("| world | drill | compared with | verdict | episodes | returns alone |")
    print("|---|---|---|---|---|---|")
    tables = [hopper(path) for path in arguments] if arguments else [chain(), cartpole()]
    for table in tables:
        for row in table:
            print(row, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
