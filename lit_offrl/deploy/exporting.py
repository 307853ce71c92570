"""Write a policy's graphs and its card into a folder, once they are shown to act alike."""

import contextlib
import hashlib
import importlib.util
import io
import logging
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lit_offrl.checkpoint import LoadedPolicy
from lit_offrl.data import load_dataset
from lit_offrl.deploy.agreeing import Agreement, agree
from lit_offrl.deploy.card import make_card, to_json, to_markdown
from lit_offrl.deploy.graph import PolicyGraph, without_chance
from lit_offrl.errors import InputError
from lit_offrl.evaluation import RawPolicy

Format = Literal["torch", "onnx", "both"]
CHECKED = 1000
FILES = {"policy.pt2", "policy.onnx", "card.json", "card.md"}


def export_policy(
    policy: LoadedPolicy,
    folder: Path,
    kind: Format = "both",
    evaluation: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write ``policy.pt2``, ``policy.onnx``, ``card.json`` and ``card.md``, all or nothing.

    Args:
        policy: What was trained.
        folder: Where to.
        kind: Which graphs.
        evaluation: What ``lit-offrl evaluate`` of the greedy policy left as ``report.json``, for
            the card.
        overwrite: Whether the folder may be there before.

    Returns:
        The card.

    Raises:
        InputError: If the folder is there, a package is missing, or a graph acts otherwise than
            the policy.
        OSError: If the disk is full. Nothing is left then, but for an export that was there.
    """
    if kind in ("onnx", "both"):
        _check_packages()
    folder = folder.resolve()  # "." has no name, and a link's target is what is replaced
    _restore(folder)
    _check_folder(folder, overwrite)
    graph = PolicyGraph(policy)
    obs, source = sample_observations(policy)
    still = without_chance(policy.algorithm)
    raw = RawPolicy(still, policy.spec, policy.scaling)
    files: dict[str, bytes] = {}
    checks: dict[str, Agreement] = {}
    with _silent(), torch.no_grad():
        if kind in ("torch", "both"):
            files["policy.pt2"] = _torch_program(graph, obs)
            found = run_torch(files["policy.pt2"], obs)
            checks["policy.pt2"] = agree("policy.pt2", found, still, raw, obs)
        if kind in ("onnx", "both"):
            files["policy.onnx"] = _onnx_model(graph, obs)
            found = run_onnx(files["policy.onnx"], obs)
            checks["policy.onnx"] = agree("policy.onnx", found, still, raw, obs)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    card = make_card(policy, evaluation, hashes, checks, f"{len(obs)} {source}")
    files |= {"card.json": to_json(card).encode(), "card.md": to_markdown(card).encode()}
    _write(folder, files)
    return card


def sample_observations(policy: LoadedPolicy, count: int = CHECKED) -> tuple[NDArray[Any], str]:
    """Draw raw observations (count, O) of the log, or like it where it cannot be had."""
    rng = np.random.default_rng(0)
    try:
        transitions, spec = load_dataset(policy.spec.dataset_id, get=False)
        if spec.content_hash != policy.spec.content_hash:
            raise InputError("another log")
    except InputError:
        mean, std = policy.scaling.obs_mean.numpy(), policy.scaling.obs_std.numpy()
        drawn = mean + std * rng.standard_normal((count, policy.spec.obs_dim))
        return drawn.astype(np.float32), "observations drawn from the log's mean and deviation"
    rows = rng.choice(len(transitions), count, replace=len(transitions) < count)
    return transitions.observed(rows).astype(np.float32), "observations of the log"


def run_torch(program: bytes, obs: NDArray[Any]) -> NDArray[Any]:
    """Actions of an exported program, run row by row in batches of two sizes."""
    module = torch.export.load(io.BytesIO(program)).module()
    halves = np.split(obs, [1])
    return np.concatenate([module(torch.from_numpy(half)).numpy() for half in halves])


def run_onnx(model: bytes, obs: NDArray[Any]) -> NDArray[Any]:
    """Actions of an ONNX model, likewise."""
    import onnxruntime  # of the extra `onnx`

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"obs": half})[0] for half in np.split(obs, [1])])


def _example(obs: NDArray[Any]) -> tuple[tuple[torch.Tensor], dict[str, Any]]:
    batch = torch.export.Dim("batch", min=1)
    return (torch.from_numpy(obs[:3]),), {"obs": {0: batch}}


def _torch_program(graph: PolicyGraph, obs: NDArray[Any]) -> bytes:
    example, shapes = _example(obs)
    program = torch.export.export(graph.eval(), example, dynamic_shapes=shapes, strict=False)
    program = torch.export.export(
        _pruned(program.module()), example, dynamic_shapes=(shapes["obs"],), strict=False
    )
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ():
            node.meta.pop("stack_trace", None)  # which holds the paths of this machine's files
    torch.export.save(program, buffer := io.BytesIO())
    return buffer.getvalue()


def _pruned(traced: Any) -> torch.nn.Module:
    """Remove the weights that a traced module never reads: its critics (in place)."""
    traced.graph.eliminate_dead_code()
    traced.recompile()
    read = {node.target for node in traced.graph.nodes if node.op == "get_attr"}
    for name in {*traced.state_dict()} - read:
        owner, _, last = name.rpartition(".")
        delattr(traced.get_submodule(owner), last)
    return traced  # type: ignore[no-any-return]


def _onnx_model(graph: PolicyGraph, obs: NDArray[Any]) -> bytes:
    example, shapes = _example(obs)
    program = torch.onnx.export(
        graph.eval(),
        example,
        dynamo=True,
        dynamic_shapes=shapes,
        input_names=["obs"],
        output_names=["action"],
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for node in model.graph.node:  # likewise
        node.ClearField("metadata_props")
    content: bytes = model.SerializeToString()
    return content


def _check_folder(folder: Path, overwrite: bool) -> None:
    """Refuse a folder that is there, unless it may be replaced and is an export's."""
    if not folder.exists():
        return
    if not overwrite:
        raise InputError(f"The folder {folder} is there: name another, or allow `--overwrite`.")
    if not folder.is_dir() or {path.name for path in folder.iterdir()} - FILES:
        raise InputError(f"{folder} holds more than an export, which would be lost: name another.")


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Fill a folder beside the wanted one, then let it take its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        if folder.exists():
            folder.rename(_aside(folder))
        temporary.rename(folder)
    finally:
        _restore(folder)
        shutil.rmtree(temporary, ignore_errors=True)


def _restore(folder: Path) -> None:
    """Put the old export back if the new one did not take its place, or remove it."""
    old = _aside(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _aside(folder: Path) -> Path:
    """Where an old export waits until the new one is in its place."""
    return folder.parent / f".{folder.name}.old"  # "/" has no name to replace


def _check_packages() -> None:
    needed = ("onnx", "onnxscript", "onnxruntime")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise InputError(
            f'ONNX needs {", ".join(missing)}: run `pip install "lit_offrl[onnx]"`, or take '
            "`--format torch`."
        )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep torch's exporters from talking of packages that nobody needs."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
