"""The environment that a data set was recorded in."""

import contextlib
import importlib
import json
import logging
import re
import signal
import threading
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import Space, spaces
from minari.serialization import deserialize_space

from lit_offrl.data import DatasetSpec
from lit_offrl.errors import EnvironmentFailed, InputError

_log = logging.getLogger(__name__)

PLUGINS = ("gymnasium_robotics", "ale_py")
"""Packages that register environments when they are imported."""

WRAPPERS = frozenset(
    {
        "AtariPreprocessing",
        "ClipAction",
        "ClipReward",
        "DtypeObservation",
        "FilterObservation",
        "FlattenObservation",
        "FrameStackObservation",
        "GrayscaleObservation",
        "MaxAndSkipObservation",
        "RescaleAction",
        "RescaleObservation",
        "ReshapeObservation",
        "ResizeObservation",
        "StickyAction",
        "TimeAwareObservation",
    }
)
"""Gymnasium's wrappers that a data set may name: they change what is seen or done, and no files."""

EXTRAS = {
    "robotics": r"Maze|Adroit|Franka|Fetch|^Hand",
    "atari": r"^ALE/|NoFrameskip",
    "mujoco": r"^(Ant|HalfCheetah|Hopper|Humanoid|Inverted|Pusher|Reacher|Swimmer|Walker2d)",
}
"""Extra of this package -> ids of the environments it brings."""


def make_env(spec: DatasetSpec, env_id: str | None = None) -> gym.Env[Any, Any]:
    """Make the environment that a data set names, through Gymnasium's registry alone.

    Only the recorded id, arguments, time limit and :data:`WRAPPERS` are used: other code that a
    data set points at (an entry point, a wrapper, a module before the id) is never imported.

    Args:
        spec: The data set.
        env_id: Environment to make instead of the recorded one.

    Raises:
        InputError: If none is recorded, it is not installed, or its spaces are not the set's.
    """
    options: dict[str, Any] = {}
    wrappers: list[dict[str, Any]] = []
    if env_id is None:
        env_id, options, wrappers = _recorded(spec)
    register_plugins(env_id)
    try:
        env = gym.make(env_id, disable_env_checker=True, **options)
        for wrapper in wrappers:
            env = getattr(gym.wrappers, wrapper["name"])(env, **wrapper["kwargs"])
    except InputError:
        raise
    except Exception as error:  # environments fail in ways of their own
        reason = _short(error)
        raise InputError(
            f"Environment `{env_id}` of `{spec.dataset_id}` cannot be made ({reason}): "
            f"{_what_to_install(env_id)}."
        ) from None
    try:
        check_spaces(env, env_id, spec)
    except InputError:
        env.close()
        raise
    return env


@contextlib.contextmanager
def watched(env: gym.Env[Any, Any], step: int | None, timeout: float = 0.0) -> Iterator[None]:
    """Turn whatever goes wrong in an environment into one sentence.

    Args:
        env: The environment.
        step: Steps of the episode so far, None where nobody counts them.
        timeout: Seconds after which it counts as hanging, 0 to wait for ever. Works in the main
            thread of a Unix process, on an environment that gives Python the control back.

    Raises:
        EnvironmentFailed: If it raises or hangs.
    """
    try:
        with _time_limit(timeout):
            yield
    except InputError:  # says what it is
        raise
    except Exception as error:  # environments fail in ways of their own
        name = env.unwrapped.spec.id if env.unwrapped.spec else type(env.unwrapped).__name__
        where = "in" if step is None else f"at step {step} of"
        raise EnvironmentFailed(
            f"Environment `{name}` failed {where} an episode "
            f"({type(error).__name__}: {_short(error)})"
        ) from error


def refuse_not_finite(numbers: Any) -> None:
    """Raise ValueError at NaN or infinity, in an array or a number."""
    if not np.isfinite(numbers).all():
        raise ValueError("it gave NaN or infinity")


@contextlib.contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError after a while, where signals can be had."""
    main = threading.current_thread() is threading.main_thread()
    if seconds <= 0 or not main or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(signum: int, frame: object) -> None:
        raise TimeoutError(f"no answer for {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _recorded(spec: DatasetSpec) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """Id, arguments and known wrappers of the recorded environment."""
    if spec.env_spec is None:
        raise InputError(
            f"Data set `{spec.dataset_id}` does not say which environment it is from: name one."
        )
    recorded = json.loads(spec.env_spec)
    env_id = str(recorded["id"])
    if ":" in env_id:  # Gymnasium would import the module before the colon
        raise InputError(
            f"Environment `{env_id}` of `{spec.dataset_id}` would import code that the data set "
            "names: import it yourself and name the environment by its id alone."
        )
    wrappers = recorded.get("additional_wrappers") or []
    known = [w for w in wrappers if _is_known(w)]
    if len(known) < len(wrappers):
        _warn_of_wrappers(spec.dataset_id, ", ".join(w["name"] for w in wrappers if w not in known))
    options = {k: v for k, v in (recorded.get("kwargs") or {}).items() if k != "render_mode"}
    options["max_episode_steps"] = recorded.get("max_episode_steps")
    return env_id, options, known


def _is_known(wrapper: dict[str, Any]) -> bool:
    own = str(wrapper["entry_point"]).startswith("gymnasium.wrappers.")
    return own and wrapper["name"] in WRAPPERS and wrapper.get("kwargs") is not None


@cache
def _warn_of_wrappers(dataset_id: str, names: str) -> None:
    _log.warning(
        "Data set `%s` was recorded through wrappers that are not applied here (%s): rewards may "
        "differ from the recorded ones.",
        dataset_id,
        names,
    )


def register_plugins(env_id: str) -> None:
    """Import the packages of :data:`PLUGINS` that are installed, if the id is not known."""
    for plugin in PLUGINS:
        if env_id not in gym.registry and find_spec(plugin) is not None:
            module = importlib.import_module(plugin)
            if plugin == "ale_py":  # which else prints a banner for every environment
                module.ALEInterface.setLoggerMode(module.LoggerMode.Error)


def _what_to_install(env_id: str) -> str:
    for extra, ids in EXTRAS.items():
        if re.search(ids, env_id):
            return f'run `pip install "lit_offrl[{extra}]"`'
    return "install the package that registers it"


def check_spaces(env: gym.Env[Any, Any], env_id: str, spec: DatasetSpec) -> None:
    """Refuse an environment whose spaces are not a data set's.

    Raises:
        InputError: If they are not.
    """
    for kind, stored in (("observation", spec.obs_space), ("action", spec.action_space)):
        wanted: Space[Any] = deserialize_space(stored)
        found: Space[Any] = getattr(env, f"{kind}_space")
        if not _same_space(wanted, found, bounds=kind == "action"):
            raise InputError(
                f"Environment `{env_id}` does not match `{spec.dataset_id}`: its {kind} space is "
                f"{_short(found)}, the data set's is {_short(wanted)}. Name the environment that "
                "the data are from."
            )


def _same_space(wanted: Space[Any], found: Space[Any], bounds: bool) -> bool:
    """Whether two spaces hold the same things, whatever their number types.

    Bounds of observations vary between versions of an environment, and are not looked at.
    """
    if isinstance(wanted, spaces.Dict) and isinstance(found, spaces.Dict):
        return wanted.keys() == found.keys() and all(
            _same_space(wanted[key], found[key], bounds) for key in wanted
        )
    if isinstance(wanted, spaces.Tuple) and isinstance(found, spaces.Tuple):
        return len(wanted) == len(found) and all(
            _same_space(*pair, bounds) for pair in zip(wanted, found, strict=True)
        )
    if isinstance(wanted, spaces.Box) and isinstance(found, spaces.Box):
        if wanted.shape != found.shape:
            return False
        return not bounds or (_agree(wanted.low, found.low) and _agree(wanted.high, found.high))
    return wanted == found


def _agree(wanted: Any, found: Any) -> bool:
    """Whether bounds are equal where the data set knows them: a D4RL file may not."""
    known = np.isfinite(wanted)
    return bool(np.allclose(np.asarray(wanted)[known], np.asarray(found)[known]))


def _short(thing: object) -> str:
    text = " ".join(str(thing).split())
    return text if len(text) <= 160 else f"{text[:157]}..."
