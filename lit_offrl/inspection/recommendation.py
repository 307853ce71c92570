"""Which algorithms to try first, and why: a ranked list, never an oracle's answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gymnasium import spaces
from minari.serialization import deserialize_space

from lit_offrl.data.spec import DatasetSpec
from lit_offrl.evaluation.finding import Finding
from lit_offrl.inspection.evidence import RULES, Evidence, Rule, read_evidence
from lit_offrl.inspection.questions import Answers

Confidence = Literal["low", "medium"]
DOMAINS = {
    "antmaze": ("antmaze", "pointmaze"),
    "adroit": ("door", "pen", "hammer", "relocate"),
    "classic_control": ("pendulum", "mountaincar", "mountaincarcontinuous"),
}
"""Words of the ids of sets of Box actions, and the name of the configs for them."""
CONSERVATIVE = ("BC", "BCQ", "TD3BC", "IQL", "ReBRAC", "AWAC", "CQL", "CalQL", "DQN", "RLPD")
"""From the one that stays nearest to the logged actions to the one that explores most."""
IMITATION = "none: it only imitates"
BOX = {
    "BC": ("bc", IMITATION),
    "IQL": ("iql", "`expectile` 0.7"),
    "TD3BC": ("td3_bc", "the config's `bc_alpha`, less if Q grows"),
    "CQL": ("cql", "the config's `cql_alpha`"),
    "ReBRAC": ("rebrac", "the config's `policy_penalty`, more if Q grows"),
    "AWAC": ("awac", "the config's `awr_temperature`"),
    "CalQL": ("cal_ql", "the config's `cql_alpha`"),
    "RLPD": ("rlpd", "none: for `lit-offrl finetune --mode rlpd`"),
}
"""Folder of the config of each algorithm that is considered, and its conservatism at the start;
what comes first is preferred where points are equal."""
DISCRETE = {
    "BC": ("bc", IMITATION),
    "CQL": ("discrete_cql", "the config's `cql_alpha`"),
    "IQL": ("discrete_iql", "`expectile` 0.7"),
    "BCQ": ("discrete_bcq", "`bcq_threshold` 0.3"),
    "CalQL": ("discrete_cal_ql", "the config's `cql_alpha`"),
    "DQN": ("dqn", "none: it trusts every value"),
}
"""The same for discrete actions."""
SHOWN, STRONG = 4, 4
"""Candidates that are shown, and points from which on confidence is medium."""


@dataclass(frozen=True)
class Candidate:
    """One algorithm to try.

    Args:
        algorithm: Its name.
        config: File to start from.
        conservatism: Where to start.
        evidence: What in the log or the literature speaks for it.
        confidence: ``low`` or ``medium``.
    """

    algorithm: str
    config: str
    conservatism: str
    evidence: str
    confidence: Confidence = "low"


@dataclass(frozen=True)
class Recommendation:
    """What to do with a log.

    Args:
        sentence: The answer in one sentence.
        candidates: What to try, best first; empty if the log supports nothing.
        open_questions: What only the user can say, and what it would change.
    """

    sentence: str
    candidates: Sequence[Candidate]
    open_questions: Sequence[str]


def domain_of(spec: DatasetSpec) -> str:
    """Folder-independent name of the config: ``adroit`` for ``door/human-v0``."""
    words = set(spec.dataset_id.lower().replace("-", "/").replace("_", "/").split("/"))
    if spec.discrete:
        if isinstance(deserialize_space(spec.obs_space), spaces.Discrete):
            return "gridworld"
        return "atari" if spec.images or "atari" in words else "classic_control"
    return next((name for name, known in DOMAINS.items() if words & set(known)), "mujoco")


def recommend(
    findings: Sequence[Finding], spec: DatasetSpec, answers: Answers | None = None
) -> Recommendation:
    """Rank algorithms by the evidence, with BC and 10 % BC always among them.

    Args:
        findings: What the inspection found.
        spec: The data set.
        answers: What the user said.
    """
    answers = answers or Answers()
    if stop := _stopped(findings, answers):
        return Recommendation(stop, (), answers.open())
    domain = domain_of(spec)
    ranked = ranking(read_evidence(findings, spec, answers), domain)
    names = [one.algorithm for one in ranked]
    sentence = f"Try {', '.join(names)} in this order; judge each against BC and 10 % BC."
    if answers.cheap_and_safe:
        sentence = f"Online RL may be the right answer: data are cheap and safe. {sentence}"
    elif answers.dangerous:
        sentence += " A bad action does harm: the most conservative stands first."
    baselines = [one for one in _baselines(spec.discrete, domain) if one.algorithm not in names]
    return Recommendation(sentence, [*ranked, *baselines], answers.open())


def _stopped(findings: Sequence[Finding], answers: Answers) -> str:
    """Why the log supports no policy, or nothing."""
    if answers.confounding:
        return (
            "This log cannot support a conclusion: no offline RL algorithm or estimator here "
            "repairs unobserved confounding. Record what the deciders knew, or randomize."
        )
    broken = [one.name for one in findings if one.verdict == "fail"]
    if broken:
        return f"This log cannot support a policy as it is: repair {', '.join(broken)} first."
    return ""


def ranking(evidence: Evidence, domain: str) -> list[Candidate]:
    """Add up the points of the rules that hold, and make candidates of the best.

    Args:
        evidence: What is known of the log.
        domain: Name of the configs.
    """
    rules = [rule for rule in RULES if rule.holds(evidence)]
    known = DISCRETE if evidence.discrete else BOX
    points = {name: sum(rule.points.get(name, 0) for rule in rules) for name in known}
    best = sorted((n for n in points if points[n] > 0), key=lambda n: -points[n])[:SHOWN]
    if evidence.answers.dangerous:
        best.sort(key=CONSERVATIVE.index)
    return [_candidate(name, points[name], rules, evidence, domain) for name in best]


def _candidate(
    name: str, points: int, rules: Sequence[Rule], evidence: Evidence, domain: str
) -> Candidate:
    """Gather what the rules say for an algorithm."""
    speaking = [rule for rule in rules if rule.points.get(name, 0) > 0]
    folder, start = (DISCRETE if evidence.discrete else BOX)[name]
    for rule in speaking:
        start = rule.starts.get(name, start)
    options = [rule.option.format(e=evidence) for rule in speaking if rule.option]
    return Candidate(
        f"Discrete{name}" if folder.startswith("discrete_") else name,
        " ".join([_config(folder, domain, evidence.discrete), *options]),
        start,
        "; ".join(rule.why.format(e=evidence) for rule in speaking),
        "medium" if points >= STRONG else "low",
    )


def _config(folder: str, domain: str, discrete: bool) -> str:
    ending = "_discrete" if (folder, domain, discrete) == ("bc", "classic_control", True) else ""
    return f"configs/{folder}/{domain}{ending}.yaml"


def _baselines(discrete: bool, domain: str) -> list[Candidate]:
    config = _config("bc", domain, discrete)
    best = f"{config} with `--data.top_fraction 0.1`"
    return [
        Candidate("BC", config, IMITATION, "baseline", "medium"),
        Candidate("10 % BC", best, "none: it imitates the best episodes", "baseline", "medium"),
    ]
