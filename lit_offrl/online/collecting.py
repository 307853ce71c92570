"""Record policies in an environment as a Minari set, episode by episode, to go on after a kill."""

import contextlib
import hashlib
import io
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import minari
import numpy as np
import torch
from lightning_utilities.core.apply_func import apply_to_collection
from minari.data_collector import EpisodeBuffer

from lit_offrl.data.builtin.placing import is_made, make_whole, minari_root
from lit_offrl.data.builtin.recording import Act, mean_return, play
from lit_offrl.data.soundness import one_line
from lit_offrl.data.spaces import refuse_unreadable
from lit_offrl.errors import InputError
from lit_offrl.evaluation.environment import register_plugins, watched
from lit_offrl.files import write_whole
from lit_offrl.online.acting import find_policy, is_checkpoint, random_act
from lit_offrl.online.exploration import Exploration
from lit_offrl.online.recorded import refuse_unfit
from lit_offrl.rng import seed_draws, stream_seed

EPISODE_STREAM = 4


@dataclass(frozen=True)
class Recipe:
    """What is recorded; the same recipe gives the same set.

    Args:
        env_id: Environment, from Gymnasium's registry.
        policies: Each ``random``, a checkpoint's path, or ``module:function`` of (obs, numpy
            generator) that returns an action or (action, log-probability).
        shares: Share of the steps of each.
        dataset_id: Id of the set.
        steps: Environment steps; the episode that reaches them is the last.
        episodes: Episodes, instead of steps.
        seed: Seed of everything that is drawn.
        exploration: How checkpoints act.
        ref_scores: Whether the mean returns of random actions and of the first policy, over 100
            episodes each, are stored as reference scores.
    """

    env_id: str
    policies: tuple[str, ...]
    shares: tuple[float, ...]
    dataset_id: str
    steps: int | None
    episodes: int | None
    seed: int
    exploration: Exploration
    ref_scores: bool = False

    def __post_init__(self) -> None:
        if not self.policies or len(self.shares) != len(self.policies):
            raise InputError(
                f"{len(self.policies)} policies and {len(self.shares)} shares: give one `--share` "
                "per `--policy`, or none."
            )
        if min(self.shares) <= 0 or not math.isfinite(sum(self.shares)):
            raise InputError(f"Shares must be positive, not {list(self.shares)}.")
        if (self.steps is None) == (self.episodes is None):
            raise InputError("Give either `--steps` or `--episodes`.")
        if (self.steps or self.episodes or 0) < 1:
            raise InputError("`--steps` and `--episodes` must be at least 1.")
        try:
            minari.dataset.minari_dataset.parse_dataset_id(self.dataset_id)
        except ValueError as error:
            raise InputError(f"`{self.dataset_id}` is no id of a set: {error}") from None

    def to_json(self) -> str:
        """One text for one recipe, to tell whether a recording that is there is this one."""
        hashes = {
            name: hashlib.sha256(Path(name).expanduser().read_bytes()).hexdigest()
            for name in filter(is_checkpoint, self.policies)
        }
        values = {**vars(self), "exploration": vars(self.exploration), "checkpoints": hashes}
        return json.dumps(values, indent=1)


def collect(
    recipe: Recipe, progress: Callable[[int, int], None] | None = None
) -> minari.MinariDataset:
    """Record what is not yet recorded, and write the set once all of it is.

    Args:
        recipe: What to record.
        progress: Called with the steps or episodes done, and how many there shall be.

    Raises:
        InputError: If there is such a set, or a policy or the environment cannot be had.
        EnvironmentFailed: If the environment fails; the episodes before are kept.
    """
    root = minari_root()
    if is_made(root, recipe.dataset_id):
        raise InputError(f"There is a set `{recipe.dataset_id}` in {root}: choose another id.")
    env = _make(recipe.env_id)
    try:
        acts = [find_policy(name, env, recipe.exploration) for name in recipe.policies]
        text = recipe.to_json()  # now: checkpoints may be replaced while episodes are played
        folder = _folder(root, recipe.dataset_id, text)
        episodes, who = _record(recipe, env, acts, folder, progress)
        scores = _reference_scores(recipe, env, acts[0])
        make_whole(
            root, recipe.dataset_id, lambda: _write(recipe, text, env, episodes, who, scores), {}
        )
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        env.close()
    return minari.load_dataset(recipe.dataset_id)


def _make(env_id: str) -> gym.Env[Any, Any]:
    try:
        register_plugins(env_id)
        env = gym.make(env_id)
    except Exception as error:  # environments fail in ways of their own
        raise InputError(f"Environment `{env_id}` cannot be made ({one_line(error)}).") from None
    try:
        assert env.spec is not None
        env.spec.to_json()
    except (ValueError, TypeError):
        raise InputError(
            f"Environment `{env_id}` was registered with a function or an argument that a set "
            "cannot name: register it as `module:Class`, with numbers, texts and lists of them."
        ) from None
    try:
        refuse_unreadable(env.observation_space, env.action_space)
    except ValueError as error:
        raise InputError(f"Environment `{env_id}` cannot be recorded: {error}.") from None
    return env


def _folder(root: Path, dataset_id: str, text: str) -> Path:
    """Folder of the episodes that are recorded; one of another recipe is refused."""
    folder = root / f".collect-{dataset_id.replace('/', '-')}"
    written = folder / "recipe.json"
    if written.is_file() and written.read_text() != text:
        raise InputError(
            f"{folder} holds another recording of `{dataset_id}`: repeat its command, with "
            "checkpoints that are unchanged since, or remove the folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(written, text.encode())
    return folder


def _record(
    recipe: Recipe,
    env: gym.Env[Any, Any],
    acts: Sequence[Act],
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[EpisodeBuffer], list[str]]:
    """Play the episodes that are missing; return all, and who played each."""
    episodes: list[EpisodeBuffer] = []
    done = np.zeros(len(acts))  # steps of each policy
    who: list[str] = []
    target = recipe.steps or recipe.episodes or 0
    while (int(done.sum()) if recipe.steps else len(episodes)) < target:
        i = int(np.argmin(done / np.array(recipe.shares)))  # who is furthest behind its share
        path = folder / f"episode-{len(episodes):08d}.pt"
        episode = _read(path)
        if episode is None:
            episode = _play(recipe, env, recipe.policies[i], acts[i], len(episodes))
            plain = apply_to_collection(vars(episode), (np.ndarray, np.generic), _plain)
            torch.save(plain, content := io.BytesIO())
            write_whole(path, content.getbuffer())
        episodes.append(episode)
        who.append(recipe.policies[i])
        done[i] += len(episode.rewards)
        if progress is not None:
            progress(int(done.sum()) if recipe.steps else len(episodes), target)
    return episodes, who


def _play(
    recipe: Recipe, env: gym.Env[Any, Any], policy: str, act: Act, number: int
) -> EpisodeBuffer:
    """Play an episode, whose every draw is a function of (seed, its number)."""
    seed = stream_seed(recipe.seed, number, EPISODE_STREAM) % (1 << 31)
    seed_draws(seed, torch.device("cpu"))
    with watched(env, None):
        episode = play(env, _named(policy, act), seed)
    refuse_unfit(env, episode, recipe.env_id, policy, number)
    return replace(episode, actions=list(np.asarray(episode.actions)))


def _named(policy: str, act: Act) -> Act:
    """What acts, with its name in its errors."""

    def named(obs: Any, rng: np.random.Generator) -> tuple[Any, float | None]:
        try:
            return act(obs, rng)
        except Exception as error:  # policies fail in ways of their own
            raise InputError(
                f"Policy `{policy}` failed ({type(error).__name__}: {one_line(error)}): repair it."
            ) from error

    return named


def _reference_scores(
    recipe: Recipe, env: gym.Env[Any, Any], first: Act
) -> tuple[float | None, float | None]:
    if not recipe.ref_scores:
        return None, None
    seed_draws(recipe.seed, torch.device("cpu"))
    with watched(env, None):
        low = mean_return(env, random_act(env.action_space), 1.0)
        high = mean_return(env, _named(recipe.policies[0], first), 1.0)
    return low, high


def _write(
    recipe: Recipe,
    text: str,
    env: gym.Env[Any, Any],
    episodes: Sequence[EpisodeBuffer],
    who: Sequence[str],
    scores: tuple[float | None, float | None],
) -> None:
    """Write the set; propensities only where every episode has them."""
    if not all(episode.infos for episode in episodes):
        episodes = [replace(episode, infos=None) for episode in episodes]
    dataset = minari.create_dataset_from_buffers(
        recipe.dataset_id,
        buffer=list(episodes),
        env=env,
        eval_env=env.spec,
        algorithm_name=" + ".join(recipe.policies),
        author="lit_offrl",
        author_email=set(),  # left out, Minari warns
        code_permalink="lit_offrl.online.collecting",
        ref_min_score=scores[0],
        ref_max_score=scores[1],
        description=f"Recorded by lit-offrl collect: {text}",
        data_format="hdf5",
        jpeg_encoding=False,  # which loses what the environment showed
    )
    dataset.storage.update_episode_metadata({"behavior": name} for name in who)


def _plain(value: Any) -> Any:
    """A tensor of an array or a NumPy number, of the same shape and type: what a file can hold."""
    return torch.from_numpy(np.array(value, order="C"))


def _read(path: Path) -> EpisodeBuffer | None:
    """An episode that was recorded before; None if there is none or it is damaged."""
    with contextlib.suppress(Exception):  # torch has many errors of its own
        plain = torch.load(path, weights_only=True)
        return EpisodeBuffer(**apply_to_collection(plain, torch.Tensor, torch.Tensor.numpy))
    return None
