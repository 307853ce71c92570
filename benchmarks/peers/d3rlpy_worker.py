"""Trains d3rlpy 2.8.1 for the benchmarks; runs in an environment of its own.

d3rlpy pins gymnasium 1.0.0. A virtual environment for it takes
``pip install torch==2.13.0 d3rlpy==2.8.1 'gymnasium[mujoco]==1.0.0'``.

"""

import tempfile
import time
from functools import cache
from typing import Any

import d3rlpy  # type: ignore[import-not-found]
import numpy as np
import torch
from d3rlpy.logging import FileAdapterFactory  # type: ignore[import-not-found]
from d3rlpy.models.torch.imitators import VAEDecoder  # type: ignore[import-not-found]
from d3rlpy.optimizers import (  # type: ignore[import-not-found]
    AdamFactory,
    CosineAnnealingLRFactory,
)
from numpy.typing import NDArray

from benchmarks.peers.rollout import episode_returns
from benchmarks.peers.serving import Request, cpu_seconds, serve
from benchmarks.peers.settings import ALGORITHMS, AS_SHIPPED, BATCH_SIZE


def load(path: str) -> Any:
    """Build d3rlpy's data set from exported transitions.

    It drops the last row of an episode that does not terminate, since it knows no observation
    after it. The export adds one row there that holds this observation, so that d3rlpy trains on
    exactly the transitions that lit_offrl does.
    """
    with np.load(path) as data:
        return d3rlpy.dataset.MDPDataset(
            data["obs"], data["action"], data["reward"], data["terminal"], data["timeout"]
        )


def create(name: str, updates: int) -> Any:
    """Create an algorithm with the shared settings; ``updates`` is the length of its schedule."""
    settings = ALGORITHMS[name]
    config = dict(settings.peer_config, batch_size=BATCH_SIZE)
    if settings.peer_cosine:
        schedule = CosineAnnealingLRFactory(T_max=updates)
        config["actor_optim_factory"] = AdamFactory(lr_scheduler_factory=schedule)
    return getattr(d3rlpy.algos, f"{settings.peer}Config")(**config).create(device=False)


def squash_decoder() -> None:
    """Let d3rlpy's decoder end in tanh, see ``peer_squash`` in the settings."""
    forward = VAEDecoder.forward
    VAEDecoder.forward = lambda self, x, latent, with_squash: forward(self, x, latent, False)


def learn(request: Request) -> Request:
    """Train one cell of the learning benchmark and return its curve."""
    d3rlpy.seed(request["seed"])
    torch.manual_seed(request["seed"])
    dataset = load(request["data"])
    with np.load(request["data"]) as data:
        mean, std = data["obs_mean"], data["obs_std"]
        low, high = data["action_low"], data["action_high"]
    if ALGORITHMS[request["algorithm"]].peer_squash and request["library"] != AS_SHIPPED:
        squash_decoder()
    algo = create(request["algorithm"], request["updates"])
    algo.build_with_dataset(dataset)

    def act(obs: NDArray[np.float32]) -> NDArray[Any]:
        action: NDArray[Any] = algo.predict((obs - mean) / std)
        raw: NDArray[Any] = np.clip(low + (action + 1) / 2 * (high - low), low, high)
        return raw.astype(np.float32)

    curve, train_cpu_s, first = [], 0.0, 0
    for point in request["points"]:
        start = time.process_time()
        for _ in range(first, point):
            algo.update(dataset.sample_transition_batch(BATCH_SIZE))
        train_cpu_s += time.process_time() - start
        with torch.random.fork_rng():
            torch.manual_seed(point)
            returns = episode_returns(
                request["env_id"], request["env_kwargs"], act, request["episodes"]
            )
        curve.append({"update": point, "returns": returns})
        first = point
    return {"curve": curve, "train_cpu_s": train_cpu_s, "transitions": dataset.transition_count}


class Given:
    """A policy of another library, as much of one as d3rlpy's FQE asks for."""

    def __init__(self, path: str, example: Any) -> None:
        self._act = torch.jit.load(path)  # type: ignore[no-untyped-call]
        self.impl = self
        self.observation_shape = example.observation_shape
        self.action_size = example.action_size

    def predict_best_action(self, obs: Any) -> Any:
        """Return greedy actions at normalized observations (B, O)."""
        with torch.no_grad():
            return self._act(obs)


def fqe(request: Request) -> Request:
    """Estimate the value of a given policy with d3rlpy's FQE."""
    d3rlpy.seed(0)
    torch.manual_seed(0)
    dataset = load(request["data"])
    start = time.process_time()
    example = d3rlpy.algos.BCConfig().create(device=False)
    example.build_with_dataset(dataset)
    config = d3rlpy.ope.FQEConfig(
        learning_rate=3e-4,
        batch_size=BATCH_SIZE,
        gamma=request["discount"],
        n_critics=request["members"],
        target_update_interval=10,  # its own 100 would leave 40 backups, of 300 that γ wants
    )
    algo = d3rlpy.ope.FQE(algo=example, config=config)
    algo.create_impl(example.observation_shape, example.action_size)
    given = Given(request["policy"], example)
    algo.impl._algo = given
    for _ in range(request["updates"]):
        algo.update(dataset.sample_transition_batch(BATCH_SIZE))
    first = np.stack([episode.observations[0] for episode in dataset.episodes])
    action = given.predict_best_action(torch.as_tensor(first)).numpy()
    value = algo.predict_value(first, action)
    return {"value": float(value.mean()), "cpu_s": time.process_time() - start}


@cache
def ready(name: str, path: str) -> tuple[Any, Any]:
    """Return algorithm and data set."""
    dataset = load(path)
    algo = create(name, 1_000_000)
    algo.build_with_dataset(dataset)
    return algo, dataset


def race(request: Request) -> Request:
    """Return the CPU seconds of one update, through ``fit`` or as bare as can be."""
    algo, dataset = ready(request["algorithm"], request["data"])
    if request["through"] == "fit":
        return {"seconds": fit_seconds(algo, dataset, request["updates"])}

    def update() -> None:
        algo.update(dataset.sample_transition_batch(BATCH_SIZE))

    return {"seconds": cpu_seconds(update, request["updates"])}


def fit_seconds(algo: Any, dataset: Any, updates: int) -> float:
    """Time ``fit`` with its logger, without what comes before the first update."""
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        algo.fit(
            dataset,
            n_steps=updates,
            n_steps_per_epoch=updates,
            show_progress=False,
            logger_adapter=FileAdapterFactory(root_dir=folder),
            callback=lambda *_: times.append(time.process_time()),
        )
    return (times[-1] - times[0]) / (updates - 1)


TASKS = {"learn": learn, "fqe": fqe, "race": race}

if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(lambda request: TASKS[request["task"]](request))
