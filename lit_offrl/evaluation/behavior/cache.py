"""Behavior fits on disk: fitted once per data set, split and option; safe to delete."""

import hashlib
import io
import logging
import os
import pickle
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from lit_offrl.data import DatasetSpec, Transitions
from lit_offrl.data.cache import cache_dir, locked
from lit_offrl.evaluation.behavior.fit import (
    HELD_OUT_FRACTION,
    UPDATES,
    BehaviorFit,
    fit_behavior,
)
from lit_offrl.evaluation.behavior.policy import BehaviorPolicy, Kind
from lit_offrl.evaluation.behavior.scores import Scores
from lit_offrl.evaluation.behavior.training import Progress
from lit_offrl.scaling import Scaling

_log = logging.getLogger(__name__)
_VERSION = 1
_DIGEST = 16
_CHUNK = 1 << 16


def cached_behavior(
    transitions: Transitions,
    scaling: Scaling,
    spec: DatasetSpec,
    *,
    kind: Kind | Literal["auto"] = "auto",
    updates: int = UPDATES,
    seed: int = 0,
    held_out_fraction: float = HELD_OUT_FRACTION,
    progress: Progress | None = None,
) -> BehaviorFit:
    """Return the stored :func:`fit_behavior`, or fit and store it; see there for the arguments.

    Of several processes one fits and the others wait for it. Without a writable cache folder each
    fits for itself, to the same result.
    """
    options = (kind, updates, seed, held_out_fraction)
    key = _key(transitions, scaling, spec, options)
    path = cache_dir() / "behavior" / f"{key}.pt"
    if (found := _read(path)) is not None:
        return found
    with locked(f"behavior-{key}"):
        if (found := _read(path)) is not None:  # another process was faster
            return found
        fit = fit_behavior(
            transitions,
            scaling,
            spec,
            kind=kind,
            updates=updates,
            seed=seed,
            held_out_fraction=held_out_fraction,
            progress=progress,
        )
        try:
            _write(path, fit)
        except OSError as error:
            _log.warning(
                "Cannot write the behavior cache %s (%s): going on without it. Set LIT_OFFRL_CACHE "
                "to a folder that is writable and has room.",
                path.parent,
                error.strerror or error,
            )
    return fit


def _key(
    transitions: Transitions, scaling: Scaling, spec: DatasetSpec, options: tuple[Any, ...]
) -> str:
    """Hash all that a fit depends on; the rows themselves tell which episodes they are."""
    text = repr((_VERSION, spec.content_hash, spec.obs_space, scaling.to_dict(), options))
    digest = hashlib.blake2b(text.encode(), digest_size=_DIGEST)
    for column in (transitions.episode, transitions.action, transitions.obs):
        for start in range(0, len(column), _CHUNK):
            digest.update(np.ascontiguousarray(column[start : start + _CHUNK]).data)
    return digest.hexdigest()


def _write(path: Path, fit: BehaviorFit) -> None:
    """Store a fit behind a digest of itself: whole or not at all."""
    fields = {k: v for k, v in vars(fit).items() if k not in ("policy", "scores")}
    policy = fit.policy
    dims = {"kind": policy.kind, "obs_dim": policy.obs_dim, "action_dim": policy.action_dim}
    buffer = io.BytesIO()
    torch.save(
        {"dims": dims, "weights": policy.state_dict(), "scores": asdict(fit.scores), "fit": fields},
        buffer,
    )
    body = buffer.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(hashlib.blake2b(body, digest_size=_DIGEST).digest() + body)
            file.close()
            os.replace(file.name, path)
        except BaseException:
            file.close()
            Path(file.name).unlink(missing_ok=True)
            raise


def _read(path: Path) -> BehaviorFit | None:
    """Read a fit, or return None where there is none or it is damaged."""
    try:
        stored = path.read_bytes()
        digest, body = stored[:_DIGEST], stored[_DIGEST:]
        if hashlib.blake2b(body, digest_size=_DIGEST).digest() != digest:
            raise ValueError("checksum differs")
        values = torch.load(io.BytesIO(body), weights_only=True)
        with torch.random.fork_rng(devices=[]):  # first weights are drawn, then replaced
            policy = BehaviorPolicy(**values["dims"])
        policy.load_state_dict(values["weights"])
        scores = Scores(**values["scores"])
        return BehaviorFit(policy.requires_grad_(False).eval(), scores, **values["fit"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, pickle.UnpicklingError) as e:
        _log.warning("The behavior cache entry %s is damaged (%s): fitting anew.", path, e)
        return None
