"""What the pages say of the code: metrics, arguments, findings, limits, options, and links."""

import ast
import inspect
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lit_offrl import algorithms
from lit_offrl.algorithms import OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.cli import main
from lit_offrl.evaluation import verdict
from lit_offrl.evaluation.behavior import findings as behavior
from lit_offrl.evaluation.behavior import support
from lit_offrl.evaluation.diagnosis import gap, gap_findings, q_learning, q_sanity
from lit_offrl.evaluation.policy_evaluation import OffPolicyOptions
from lit_offrl_callbacks.kl_divergence import KLDivergence

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "algorithms").glob("*.md"))
NAMES = sorted(set(algorithms.__all__) - {"OfflineAlgorithm"})
DIAGNOSTICS = (ROOT / "docs" / "diagnostics.md").read_text(encoding="utf-8")
EVALUATION = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
CALLBACKS = ROOT / "callbacks" / "lit_offrl_callbacks"
MAKERS = {"Finding", "not_applicable", "no_scale", "too_short", "gap_finding", "_compared"}
READERS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "callbacks/README.md"]
PAGE_OF = {
    "inspect": "inspecting",
    "finetune": "finetuning",
    "collect": "collecting",
    "monitor": "monitoring",
    "export": "export",
}
SECTIONS = ["Equations", "Departures", "Logged metrics", "When it fails"]

every_algorithm = pytest.mark.parametrize("name", NAMES)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def page_of(cls: type) -> str:
    name = cls.__module__.rpartition(".")[2]
    return (ROOT / "docs" / "algorithms" / f"{name}.md").read_text(encoding="utf-8")


def logged(algorithm: OfflineAlgorithm) -> set[str]:
    """Keys of two updates, since TD3+BC steps its policy in every second."""
    rows = torch.randn(4, 3)
    action = torch.randint(2, (4,)) if algorithm.actions == "discrete" else torch.rand(4, 2)
    zeros, reward = torch.zeros(4), torch.randn(4)
    batch = Batch(rows, action, reward, rows.flip(0), zeros, zeros, reward, action, zeros)
    keys: set[str] = set()
    for algorithm.update_number in range(2):
        keys |= algorithm.update(batch).keys()
    return keys


def section(page: str, title: str) -> str:
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


@every_algorithm
def test_page_lists_exactly_the_metrics_that_an_update_returns(name: str) -> None:
    cls = getattr(algorithms, name)
    table = section(page_of(cls), "Logged metrics")
    assert set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)) == logged(cls(3, 2))


@every_algorithm
def test_class_docstring_explains_every_argument(name: str) -> None:
    cls = getattr(algorithms, name)
    documented = next(kind for kind in cls.__mro__ if "__init__" in vars(kind)).__doc__
    arguments = re.findall(r"^ {8}(\w+): ", documented.split("Args:")[1], re.MULTILINE)
    if not arguments:  # Python 3.13 strips the indentation
        arguments = re.findall(r"^ {4}(\w+): ", documented.split("Args:")[1], re.MULTILINE)
    assert arguments == list(inspect.signature(cls).parameters)


@every_page
def test_page_has_its_sections_and_a_row_in_the_index(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == SECTIONS
    assert f"(algorithms/{page.name})" in (ROOT / "docs" / "index.md").read_text(encoding="utf-8")


@every_page
def test_departures_are_numbered_from_one(page: Path) -> None:
    departures = section(page.read_text(encoding="utf-8"), "Departures")
    numbers = [int(n) for n in re.findall(r"^(\d+)\. ", departures, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert numbers


def findings_in_the_code() -> set[str]:
    """Names that calls of `Finding`, or of what makes one, are given as text or as a local name."""
    names: set[str] = set()
    for path in [*(ROOT / "lit_offrl" / "evaluation").rglob("*.py"), *CALLBACKS.glob("*.py")]:
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                known = local_names(function)
                for call in ast.walk(function):
                    if isinstance(call, ast.Call) and call.args and called(call) in MAKERS:
                        names |= texts(call.args[0], known)
    return names


def called(call: ast.Call) -> str:
    name: str = getattr(call.func, "id", getattr(call.func, "attr", ""))
    return name


def texts(node: ast.expr, known: dict[str, str]) -> set[str]:
    """The text that an expression is, or nothing."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    return {known[node.id]} if isinstance(node, ast.Name) and node.id in known else set()


def local_names(function: ast.FunctionDef) -> dict[str, str]:
    """Local names that stand for a text, by `name = "..."` or `name, x = "...", y`."""
    found: dict[str, str] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign):
            pairs = [(node.targets[0], node.value)]
            if isinstance(node.targets[0], ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(node.targets[0].elts, node.value.elts, strict=True))
            found |= {n.id: t for n, v in pairs if isinstance(n, ast.Name) for t in texts(v, {})}
    return found


def rows(page: str) -> dict[str, str]:
    """Rows of a page's tables under the names in their first cells."""
    lines = re.findall(r"^\| (`[^|]*`) \|(.*)\|$", page, re.MULTILINE)
    return {name: row for cell, row in lines for name in re.findall(r"`([^`]+)`", cell)}


def test_every_finding_has_a_row_and_every_row_is_a_finding() -> None:
    listed = {name for name in rows(DIAGNOSTICS) if re.fullmatch(r"[a-z]+_[a-z_]+", name)}
    assert listed == findings_in_the_code() - {"support", "fqe_convergence"}
    assert all(f"`{name}`" in DIAGNOSTICS for name in ("support", "fqe_convergence"))


def limits() -> dict[str, list[str]]:
    """What the code's limits look like in the rows of the findings that they belong to."""
    q, kl = q_sanity.QThresholds(), inspect.signature(KLDivergence).parameters
    kl_total, kl_dim = kl["total"].default, kl["per_dimension"].default
    outside = (gap_findings.OUTSIDE_WATCH, gap_findings.OUTSIDE_FAIL)
    return {
        "q_bounds": [f"above {q.outside * 100:g} %", f"{q.tolerance:g} S", f"{q.near_bound:g} U"],
        "q_vs_mc": [
            f"below -{q.under:g}",
            f"below {q.rank_correlation:g}",
            f"{q_sanity.MIN_KNOWN} rows",
        ],
        "q_policy_gap": [f"above {q.policy_gap[0]:g} |", f"above {q.policy_gap[1]:g} |"],
        "q_ood_gap": [f"above {q.ood_gap:g}:"],
        "q_constant": [f"({q.burn_in:,} updates)", f"below 1e{math.log10(q.constant):g}"],
        "q_sign": [f"-{q.tolerance:g} S"],
        "q_td_error": [f"ratio above {q.td_ratio:g}", f"tail above {q.td_tail:g}"],
        "q_disagreement": [f"above {q.disagreement:g} |"],
        "q_drift": [
            f"above {q.drift:g} ",
            f"last {q_learning.WINDOW} ",
            f"needs {q_learning.MIN_POINTS} ",
        ],
        "q_coadaptation": [f"{q_learning.NOTABLE:g} S"],
        "awr_weights": [
            f"above {q.clipped * 100:g} %",
            f"below {q.effective_rows * 100:g} %",
            f"below {q.mean_weight:g};",
            f"below {q_learning.FLAT_MEAN:g} ",
            f"below {q.best_weight:g} ",
        ],
        "cql_trend": [f"{q_learning.NOTABLE:g} S"],
        "kl_behavior": [
            f"{kl_total[0]:g} bit ",
            f"{kl_dim[0]:g} bits per",
            f"| {kl_total[1]:g}; {kl_dim[1]:g} per",
        ],
        "kl_too_close": [f"below {kl['too_close'].default:g} bits"],
        "behavior_ece": [f"| {limit:g} |" for limit in behavior.ECE_LIMITS],
        "behavior_pit": [f"| {behavior.PIT_LIMITS[0]:g}:", f"| {behavior.PIT_LIMITS[1]:g} |"],
        "behavior_unexplained": [f"| {limit:g} |" for limit in behavior.UNEXPLAINED_LIMITS],
        "behavior_overfit": [f"| {behavior.OVERFIT_NATS:g} |"],
        "gap_reward_range": [f"| {share * 100:g} %" for share in outside],
        "gap_critic": [f"below -{gap.MARGIN:g};", f"above {gap.MARGIN:g} |"],
    }


@pytest.mark.parametrize("name", limits())
def test_the_limits_of_a_finding_are_those_of_the_code(name: str) -> None:
    row = f"{rows(DIAGNOSTICS)[name]}|"
    missing = [text for text in limits()[name] if text not in row]
    assert not missing, row


def test_the_limits_of_the_verdict_are_those_of_the_code() -> None:
    for text in (
        f"above {support.WATCH:g} `watch`, above {support.NO_SUPPORT:g} `NO_SUPPORT`",
        f"more than {verdict.MOST_UNSUPPORTED * 100:g} % of its episodes",
        f"below max({verdict.LEAST_SAMPLE}, n/{1 / verdict.LEAST_SAMPLE_SHARE:g})",
        f"k above {verdict.LARGEST_PARETO_K:g}",
    ):
        assert text in " ".join(EVALUATION.split()), text
    assert verdict.LARGEST_SPREAD == 0.1  # "a tenth of S"
    words = {"NO_SUPPORT", "AGREE", "DISAGREE", "SINGLE", "NONE"}
    assert set(re.findall(r"`([A-Z_]+)`", section(EVALUATION, "The verdict"))) >= words


def test_every_option_of_evaluate_is_listed_with_its_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    known = set(re.findall(r"^ +(--\w+)", capsys.readouterr().out, re.MULTILINE))
    listed = rows(section(EVALUATION, "Options"))
    assert listed.keys() - {"CHECKPOINT ..."} == known
    table = section(EVALUATION, "Options").splitlines()
    for name, default in vars(OffPolicyOptions()).items():
        cells = next(line.split("|") for line in table if f"`--{name}`" in line)
        place = re.findall(r"--(\w+)", cells[1]).index(name)
        assert cells[2].split(", ")[place].strip(" `") == f"{default}"


def options_of_fit(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Options of `lit-offrl fit` beside those of trainer and algorithm, with their defaults."""
    with pytest.raises(SystemExit):
        main(["fit", "--model", "BC", "--data.dataset_id", "any", "--print_config"])
    flat: dict[str, Any] = {}
    for name, value in yaml.safe_load(capsys.readouterr().out).items():
        options = value.items() if isinstance(value, dict) else [("", value)]
        flat |= {f"{name}.{option}".strip("."): default for option, default in options}
    return {k: v for k, v in flat.items() if k.partition(".")[0] not in ("trainer", "model")}


def test_every_option_of_fit_is_listed_with_its_default(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| `([\w.]+)` \| (`.*?`|) ?\| ", text, re.MULTILINE)
    listed = {name: yaml.safe_load(default.strip("`")) for name, default in cells}
    assert listed == options_of_fit(capsys) | {"data.dataset_id": None}


@pytest.mark.parametrize(("verb", "page"), PAGE_OF.items())
def test_every_option_of_a_verb_is_on_its_page(
    verb: str, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    options = set(re.findall(r"^ +(--\w+)", capsys.readouterr().out, re.MULTILINE))
    shown = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    assert options <= set(re.findall(r"--\w+", shown))


@pytest.mark.parametrize(
    "page",
    [*(ROOT / name for name in READERS), *sorted((ROOT / "docs").rglob("*.md"))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings]
