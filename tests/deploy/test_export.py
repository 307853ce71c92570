import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from lit_offrl.algorithms import (
    BC,
    BCQ,
    CQL,
    IQL,
    TD3BC,
    DiscreteBCQ,
    DiscreteCQL,
    OfflineAlgorithm,
)
from lit_offrl.algorithms.pex import PEX
from lit_offrl.checkpoint import LoadedPolicy, TrainingInfo
from lit_offrl.deploy import exporting
from lit_offrl.deploy.agreeing import Agreement, agree
from lit_offrl.deploy.exporting import export_policy, run_onnx, run_torch
from lit_offrl.deploy.graph import PolicyGraph, without_chance
from lit_offrl.errors import InputError
from lit_offrl.evaluation import RawPolicy
from lit_offrl.evaluation.finding import Finding
from lit_offrl.scaling import Scaling
from tests.evaluation.fakes import spec_of

OBS = gym.spaces.Box(-np.inf, np.inf, (3,))
BOX = gym.spaces.Box(np.array([-2.0, 0.0]), np.array([1.0, 0.1]), dtype=np.float64)
SMALL: dict[str, Any] = {"hidden": (8, 8)}


def policy_of(algorithm: OfflineAlgorithm, space: gym.Space[Any] = BOX) -> LoadedPolicy:
    """A policy whose scaling is no identity."""
    spec = spec_of(OBS, space)
    box = spec.action_low is not None
    scaling = Scaling(
        torch.tensor([1.0, -2.0, 0.5]),
        torch.tensor([0.5, 3.0, 1.0]),
        torch.tensor(spec.action_low) if box else None,
        torch.tensor(spec.action_high) if box else None,
    )
    finding = Finding("q_bounds", "ok", "Values are possible.")
    for parameter in algorithm.parameters():
        parameter.data.mul_(2)  # so that actions differ between observations, and saturate
    return LoadedPolicy(algorithm.eval(), spec, scaling, TrainingInfo(7, 3, findings=(finding,)))


def observations(n: int = 64) -> Any:
    return np.random.default_rng(1).normal(0, 3, (n, 3)).astype(np.float32)


def act(policy: LoadedPolicy, obs: Any) -> Any:
    """What the graph does, before any file."""
    return PolicyGraph(policy)(torch.from_numpy(obs)).numpy()


ALGORITHMS: dict[str, Callable[[], OfflineAlgorithm]] = {
    "BC": lambda: BC(3, 2, **SMALL),
    "TD3BC": lambda: TD3BC(3, 2, **SMALL),
    "IQL": lambda: IQL(3, 2, dropout=0.3, **SMALL),
    "CQL": lambda: CQL(3, 2, critic_hidden=(8, 8), **SMALL),
    "PEX": lambda: PEX(3, 2, **SMALL),
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_graph_acts_as_the_policy_does(name: str) -> None:
    policy, obs = policy_of(ALGORITHMS[name]()), observations()
    found = act(policy, obs)
    np.testing.assert_allclose(found, policy(obs), rtol=0, atol=1e-6)
    assert found.std(0).min() > 1e-3
    assert (found >= BOX.low).all() and (found <= BOX.high).all()


SPACES = [
    (gym.spaces.Discrete(4, start=-1), 4),
    (gym.spaces.MultiDiscrete([2, 3], start=[0, 5]), 6),
]


@pytest.mark.parametrize(("space", "count"), SPACES)
@pytest.mark.parametrize("kind", [DiscreteCQL, DiscreteBCQ])
def test_discrete_actions_are_the_environments_own(
    space: gym.Space[Any], count: int, kind: Any
) -> None:
    policy, obs = policy_of(kind(3, count, **SMALL), space), observations()
    found = act(policy, obs)
    np.testing.assert_array_equal(found, policy(obs))
    assert found.dtype == np.int64 and len(np.unique(found, axis=0)) > 1


def test_bcq_is_a_function_of_the_observation() -> None:
    policy, obs = policy_of(BCQ(3, 2, vae_hidden=(8,), **SMALL)), observations()
    graph = PolicyGraph(policy)
    whole = graph(torch.from_numpy(obs))
    single = torch.cat([graph(torch.from_numpy(obs[i : i + 1])) for i in range(len(obs))])
    torch.testing.assert_close(whole, single, atol=1e-6, rtol=0)
    raw = RawPolicy(graph.algorithm, policy.spec, policy.scaling)
    np.testing.assert_allclose(whole.numpy(), raw(obs), rtol=0, atol=1e-6)


def agree_at(policy: LoadedPolicy, obs: Any, found: Any) -> Agreement:
    return agree("policy.pt2", found, policy.algorithm, policy, obs)


def without_actions(kind: Any, action_dim: int, **arguments: Any) -> OfflineAlgorithm:
    """An algorithm whose critic values all actions alike to rounding."""
    algorithm: OfflineAlgorithm = kind(3, action_dim, **SMALL, **arguments)
    for parameter in algorithm.q.parameters():  # type: ignore[union-attr]
        parameter.data.mul_(1e-9)
    return algorithm


@pytest.mark.parametrize(("kind", "space"), [(TD3BC, BOX), (DiscreteCQL, SPACES[0][0])])
def test_few_rows_may_take_another_action_of_the_same_value(
    kind: Any, space: gym.Space[Any]
) -> None:
    obs, width = observations(100), 2 if space is BOX else 4
    tied, sure = policy_of(without_actions(kind, width), space), policy_of(kind(3, width), space)
    for policy, rows, fine in ((tied, 5, True), (tied, 6, False), (sure, 5, False)):
        found = np.array(policy(obs))
        found[:rows] = space.low if space is BOX else (found[:rows] + 2) % 4 - 1
        if fine:
            assert agree_at(policy, obs, found) == Agreement(0.0, rows)
            continue
        with pytest.raises(InputError, match=rf"at {rows} of 100 observations"):
            agree_at(policy, obs, found)


def test_discrete_actions_that_are_as_probable_are_ties() -> None:
    policy = policy_of(BC(3, 4, policy="categorical", **SMALL), SPACES[0][0])
    for parameter in policy.algorithm.parameters():
        parameter.data.mul_(1e-9)
    obs = observations(100)
    found = np.array(policy(obs))
    found[0] = (found[0] + 2) % 4 - 1
    assert agree_at(policy, obs, found).ties == 1


def test_small_differences_are_said_and_larger_ones_refused() -> None:
    policy, obs = policy_of(BC(3, 2, **SMALL)), observations(100)
    width = BOX.high - BOX.low
    near = agree_at(policy, obs, policy(obs) + 5e-6 * width)
    assert near.largest_difference == pytest.approx(5e-6, rel=0.1) and near.ties == 0
    for shift in (2e-5, np.nan):
        with pytest.raises(InputError, match="at 100 of 100 observations"):
            agree_at(policy, obs, policy(obs) + shift * width)


def test_what_is_compared_with_is_the_policy_as_it_was_trained() -> None:
    policy = policy_of(IQL(3, 2, **SMALL))
    policy.algorithm.double()
    still = without_chance(policy.algorithm)
    assert next(still.parameters()).dtype is torch.float64
    assert next(PolicyGraph(policy).parameters()).dtype is torch.float32


def test_a_program_holds_the_weights_that_it_reads_and_no_others() -> None:
    policy, obs = policy_of(IQL(3, 2, **SMALL)), observations()
    content = exporting._torch_program(PolicyGraph(policy), obs)
    program = torch.export.load(io.BytesIO(content))
    assert not [name for name in program.state_dict if ".q." in name or ".v." in name]
    np.testing.assert_allclose(run_torch(content, obs), policy(obs), rtol=0, atol=1e-6)


def test_a_program_does_not_draw() -> None:
    policy, obs = policy_of(BCQ(3, 2, vae_hidden=(8,), **SMALL)), observations()
    content = exporting._torch_program(PolicyGraph(policy), obs)  # which has not acted before
    still = RawPolicy(without_chance(policy.algorithm), policy.spec, policy.scaling)
    np.testing.assert_allclose(run_torch(content, obs), still(obs), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "space"),
    [("IQL", BOX), ("BCQ", BOX), ("PEX", BOX), ("DiscreteBCQ", SPACES[1][0])],
)
def test_files_act_as_the_policy_does(tmp_path: Path, name: str, space: gym.Space[Any]) -> None:
    makers: dict[str, Callable[[], OfflineAlgorithm]] = {**ALGORITHMS}
    makers |= {"BCQ": lambda: BCQ(3, 2, vae_hidden=(8,), **SMALL)}
    makers["DiscreteBCQ"] = lambda: DiscreteBCQ(3, 6, **SMALL)
    policy, obs = policy_of(makers[name](), space), observations()
    card = export_policy(policy, tmp_path / "out")
    wanted = act(policy, obs)
    for run, file in ((run_torch, "policy.pt2"), (run_onnx, "policy.onnx")):
        content = (tmp_path / "out" / file).read_bytes()
        np.testing.assert_allclose(run(content, obs), wanted, rtol=0, atol=1e-5)
        assert str(Path(exporting.__file__).parents[2]).encode() not in content
    assert card["check"]["observations"].startswith("1000 observations drawn")
    assert set(card["files"]) == {"policy.pt2", "policy.onnx"}


@pytest.mark.slow
def test_the_onnx_file_runs_where_neither_torch_nor_this_library_is_loaded(tmp_path: Path) -> None:
    policy = policy_of(IQL(3, 2, **SMALL))
    export_policy(policy, tmp_path / "out", "onnx")
    obs = observations(5)
    np.save(tmp_path / "obs.npy", obs)
    script = (
        "import sys, numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession('out/policy.onnx')\n"
        "(action,) = session.run(None, {'obs': numpy.load('obs.npy')})\n"
        "assert not {'torch', 'lit_offrl', 'lightning'} & set(sys.modules)\n"
        "numpy.save('action.npy', action)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    np.testing.assert_allclose(np.load(tmp_path / "action.npy"), policy(obs), rtol=0, atol=1e-5)


def quick(policy: LoadedPolicy, folder: Path, **options: Any) -> dict[str, Any]:
    return export_policy(policy, folder, "torch", **options)


def test_the_card_says_what_the_policy_is(tmp_path: Path) -> None:
    evaluation = {
        "conclusion": "use",
        "headline": "It is better.",
        "why": "By far.",
        "estimates": [
            {"name": "FQE", "status": "valid", "value": 3.0, "interval": [2.0, 4.0]},
            {"name": "WIS", "status": "dropped", "value": 9.0, "interval": [8.0, 10.0]},
        ],
        "lower_bound": 1.5,
        "estimand": "Discounted return of the greedy policy.",
        "findings": [
            Finding("q_bounds", "ok", "Values are possible.").to_dict(),
            Finding("support", "fail", "Not covered.").to_dict(),
        ],
        "ledger": {"log": "other/log-v0", "log's content hash": "0123456789abcdef"},
    }
    policy = policy_of(IQL(3, 2, discount=0.9, **SMALL))
    card = quick(policy, tmp_path / "out", evaluation=evaluation)
    written = json.loads((tmp_path / "out" / "card.json").read_text())
    assert written == json.loads(json.dumps(card))
    assert (card["algorithm"], card["updates"], card["seed"], card["discount"]) == (
        "IQL",
        7,
        3,
        0.9,
    )
    assert card["data"]["content_hash"] == "hash" and card["lower_bound"] == 1.5
    text = (tmp_path / "out" / "card.md").read_text()
    for part in (
        "**USE.** It is better. By far.",
        "| evaluated on | `other/log-v0`, content 0123456789ab |",
        "\nDiscounted return of the greedy policy.\n",
        "| FQE | 3 | 2 to 4 |",
        "## Findings of training\n\n- q_bounds ok: Values are possible.\n\n",
        "## Findings of the evaluation\n\n- support fail: Not covered.\n\n",
    ):
        assert part in text, part
    assert "WIS" not in text
    assert "Intended use: The task that" in text
    bare = quick(policy, tmp_path / "bare")
    assert bare["conclusion"] == "not evaluated" and "None yet" in bare["intended_use"]
    text = (tmp_path / "bare" / "card.md").read_text()
    assert "evaluated on" not in text and "Findings of the evaluation" not in text
    doubted = quick(policy, tmp_path / "doubted", evaluation={"conclusion": "not shown"})
    assert "does not support" in doubted["intended_use"]
    assert "this log alone" in text and "fine-tuned" not in text
    policy.info = policy.info._replace(online_steps=1_000)
    assert quick(policy, tmp_path / "tuned")["online_steps"] == 1_000
    text = (tmp_path / "tuned" / "card.md").read_text()
    assert "this log and 1,000 steps in the environment: where" in text
    assert "| fine-tuned on, steps | 1,000 |" in text


def test_the_code_on_the_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick(policy_of(BC(3, 2, **SMALL)), tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    code = Path("card.md").read_text().split("```python\n")[1].split("```")[0]
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["action"].shape == (1, 2)


def test_an_existing_folder_is_left_alone_unless_it_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "card.md").write_text("an older one")
    policy = policy_of(BC(3, 2, **SMALL))
    with pytest.raises(InputError, match="is there"):
        quick(policy, tmp_path / "out")
    assert (tmp_path / "out" / "card.md").read_text() == "an older one"
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(InputError, match="holds more than an export"):
        quick(policy, tmp_path / "out", overwrite=True)
    (tmp_path / "out" / "mine.txt").unlink()
    quick(policy, tmp_path / "out", overwrite=True)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "card.json",
        "card.md",
        "policy.pt2",
    ]


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("failing", [0, 1])
def test_the_old_export_stays_until_the_new_one_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, killed: bool
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "card.md").write_text("an older one")
    policy, real, renamed = policy_of(BC(3, 2, **SMALL)), Path.rename, list[Path]()

    def rename(self: Path, target: Path) -> Path:
        renamed.append(self)
        if len(renamed) == failing + 1:
            raise OSError(5, "Input/output error")
        return real(self, target)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output"):
        patch.setattr(Path, "rename", rename)
        if killed:  # nothing is put back
            patch.setattr(exporting, "_restore", lambda folder: None)
        quick(policy, tmp_path / "out", overwrite=True)
    with pytest.raises(InputError, match="is there"):
        quick(policy, tmp_path / "out")
    assert (tmp_path / "out" / "card.md").read_text() == "an older one"
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".tmp"] == ["out"]
    quick(policy, tmp_path / "out", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_current_folder_can_be_exported_to_if_it_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    quick(policy_of(BC(3, 2, **SMALL)), Path("."), overwrite=True)
    assert (tmp_path / "here" / "policy.pt2").is_file()
    with pytest.raises(InputError, match="holds more than an export"):
        quick(policy_of(BC(3, 2, **SMALL)), Path("/"), overwrite=True)


def test_a_graph_that_acts_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "run_torch", lambda *_: np.full((1000, 2), 0.05, np.float32))
    with pytest.raises(InputError, match=r"acts otherwise than the policy at \d+ of 1000"):
        quick(policy_of(BC(3, 2, **SMALL)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        quick(policy_of(BC(3, 2, **SMALL)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"lit_offrl\[onnx\]"):
        export_policy(policy_of(BC(3, 2, **SMALL)), tmp_path / "out")


def test_bounds_of_float64_are_not_passed() -> None:
    low = np.array([-0.1, 0.1])  # neither is a float32
    space = gym.spaces.Box(low, low + 0.3, dtype=np.float64)
    policy = policy_of(BC(3, 2, policy="deterministic", **SMALL), space)
    for parameter in policy.algorithm.parameters():
        parameter.data.mul_(50)  # all actions saturate
    found = PolicyGraph(policy)(torch.from_numpy(observations())).numpy().astype(np.float64)
    assert (found >= space.low).all() and (found <= space.high).all()
