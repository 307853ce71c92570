"""Episodes as they were played, checked as the reader of a data set will check them."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from lightning_utilities.core.apply_func import apply_to_collection
from minari.data_collector import EpisodeBuffer
from numpy.typing import NDArray

from lit_offrl.data.soundness import first_unsound, one_line
from lit_offrl.data.spaces import flatten_actions, split_observations
from lit_offrl.errors import EnvironmentFailed, InputError


def refuse_unfit(
    env: gym.Env[Any, Any], episode: EpisodeBuffer, env_id: str, policy: str, number: int
) -> None:
    """Refuse an episode that no data set can hold, before others are played.

    Args:
        env: Where it was played.
        episode: What was recorded.
        env_id: Name of the environment.
        policy: Name of who played.
        number: Number of the episode.

    Raises:
        EnvironmentFailed: If observations or rewards are not of the space, not finite or too large.
        InputError: If the same is true of actions or of their log-probabilities.
    """
    played, acted = (
        f"Environment `{env_id}`, episode {number}",
        f"Policy `{policy}`, episode {number}",
    )
    try:
        observations = apply_to_collection(episode.observations, list, np.asarray)
        numbers, _ = split_observations(env.observation_space, observations)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise EnvironmentFailed(
            f"{played}: an observation is not of its space ({one_line(error)})"
        ) from None
    try:
        actions = flatten_actions(env.action_space, episode.actions)
    except (ValueError, TypeError) as error:
        raise InputError(f"{acted}: an action is not of its space ({one_line(error)}).") from None
    seen, done = first_unsound(numbers), first_unsound(actions)
    if done is not None and (seen is None or done[0] < seen[0]):  # one brings about the other
        raise InputError(f"{acted}: an action is {done[1]} at step {done[0]}.")
    earned = first_unsound(np.array(episode.rewards))
    for what, found in (("an observation", seen), ("a reward", earned)):
        if found is not None:
            raise EnvironmentFailed(f"{played}: {what} is {found[1]} at step {found[0]}")
    if episode.infos:
        _refuse_log_prob(env.action_space, np.asarray(episode.infos["behavior_log_prob"]), acted)


def _refuse_log_prob(space: gym.Space[Any], log_prob: NDArray[Any], who: str) -> None:
    wrong = ~np.isfinite(log_prob) | ((log_prob > 0) & (not isinstance(space, spaces.Box)))
    if wrong.any():
        step = int(wrong.argmax())
        raise InputError(
            f"{who}: {log_prob[step]:g} at step {step} is no log-probability of an action: return "
            "the logarithm, or no number."
        )
