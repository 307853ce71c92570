"""Which algorithms to try first, and why: a ranked list, never an oracle's answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gymnasium import spaces
from minari.serialization import deserialize_space

from lit_offrl.data.spec import DatasetSpec
from lit_offrl.evaluation.finding import Finding
from lit_offrl.inspection.questions import Answers
from lit_offrl.inspection.thresholds import DETERMINISTIC, FEW_GOOD, MIN_EPISODES, SPARSE

Confidence = Literal["low", "medium"]
HIGH_QUALITY, VARIED = 0.8, 1.5
"""Trajectory quality, and effective actions per state, that count as high."""
DOMAINS = {
    "antmaze": ("antmaze", "pointmaze"),
    "adroit": ("door", "pen", "hammer", "relocate"),
    "classic_control": ("pendulum", "cartpole", "mountaincar", "acrobot"),
}


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
    if spec.discrete and isinstance(deserialize_space(spec.obs_space), spaces.Discrete):
        return "gridworld"
    words = spec.dataset_id.lower().replace("-", "/").replace("_", "/").split("/")
    for domain, names in DOMAINS.items():
        if set(names) & set(words):
            return domain
    return "classic_control" if spec.discrete else "mujoco"


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
    by_name = {finding.name: finding for finding in findings}
    if stop := _stopped(by_name, answers):
        return Recommendation(stop, (), answers.open())
    candidates = [*_candidates(by_name, spec, answers), *_baselines(spec)]
    unique = {one.algorithm: one for one in reversed(candidates)}  # the first of a name stays
    ranked = [one for one in candidates if unique[one.algorithm] is one]
    others = [one.algorithm for one in ranked if one.evidence != "baseline"]
    sentence = f"Try {', '.join(others)} in this order; judge each against BC and 10 % BC."
    if answers.can_collect and answers.expensive is False and answers.dangerous is False:
        sentence = f"Online RL may be the right answer: data are cheap and safe. Else: {sentence}"
    return Recommendation(sentence, ranked, answers.open())


def _stopped(found: Mapping[str, Finding], answers: Answers) -> str:
    """Why the log supports no policy, or nothing."""
    if answers.confounding:
        return (
            "This log cannot support a conclusion: no offline RL algorithm or estimator here "
            "repairs unobserved confounding. Record what the deciders knew, or randomize."
        )
    broken = [name for name, finding in found.items() if finding.verdict == "fail"]
    if broken:
        return f"This log cannot support a policy as it is: repair {', '.join(broken)} first."
    return ""


def _value(found: Mapping[str, Finding], name: str, otherwise: float) -> float:
    finding = found.get(name)
    return otherwise if finding is None or finding.value is None else finding.value


def _candidates(
    found: Mapping[str, Finding], spec: DatasetSpec, answers: Answers
) -> list[Candidate]:
    """Candidates of science's table, first those whose evidence is strongest."""
    domain = domain_of(spec)
    if spec.discrete:
        return _discrete(found, domain, answers)
    few = _value(found, "episodes", 1e9) < MIN_EPISODES
    sparse = _value(found, "reward_sparsity", 0.0) >= SPARSE
    quality = _value(found, "trajectory_quality", 0.0)
    good = _value(found, "expert_share", 1.0)
    iql, td3 = f"configs/iql/{domain}.yaml", f"configs/td3_bc/{domain}.yaml"
    if few:
        n = _value(found, "episodes", 0.0)
        why = f"{n:.0f} episodes, as few as Adroit's human sets: CORL's table favors BC and IQL"
        return [
            Candidate("BC", _bc(spec), "none: it only imitates", why, "medium"),
            Candidate("IQL", iql, "the config's `expectile`; not TD3+BC or SAC-N", why),
        ]
    if sparse:
        why = "sparse rewards: parts of episodes must be joined (CORL's AntMaze table)"
        cal_ql = f"configs/cal_ql/{domain}.yaml"
        return [
            Candidate("IQL", iql, "`expectile` 0.9", why, "medium"),
            Candidate("CalQL", cal_ql, "the config's `cql_alpha`", why),
        ]
    if quality >= HIGH_QUALITY and answers.dangerous is not False:
        why = f"the mean return is {quality:.0%} of the way up: BC is competitive"
        return [
            Candidate("BC", _bc(spec), "none: it only imitates", why, "medium"),
            Candidate("TD3BC", td3, "the config's `bc_alpha`, then more", why),
        ]
    why = f"mixed returns, {good:.0%} good episodes"
    if good < FEW_GOOD:
        why += ": weight the batches by advantage or return too (Hong et al. 2023)"
    ranked = [
        Candidate("IQL", iql, "`expectile` 0.7", why, "medium"),
        Candidate("TD3BC", td3, "the config's; raise the BC term if Q grows", why),
    ]
    varied = _value(found, "actions_per_state", 0.0)
    if varied >= VARIED and not answers.dangerous:
        why = f"{varied:.1f} effective actions per dimension and state: replay-like coverage"
        ranked.append(Candidate("CQL", f"configs/cql/{domain}.yaml", "`cql_alpha` 5", why))
    return ranked


def _discrete(found: Mapping[str, Finding], domain: str, answers: Answers) -> list[Candidate]:
    narrow = _value(found, "determinism", 0.0) > DETERMINISTIC
    varied = _value(found, "actions_per_state", 0.0)
    bcq = Candidate(
        "DiscreteBCQ",
        f"configs/discrete_bcq/{domain}.yaml",
        "`bcq_threshold` 0.3",
        "it takes no action that the log hardly took",
        "medium" if narrow or answers.dangerous else "low",
    )
    cql = Candidate(
        "DiscreteCQL",
        f"configs/discrete_cql/{domain}.yaml",
        "the config's `cql_alpha`",
        f"{varied:.1f} effective actions per state: the DQN family needs coverage",
        "medium" if varied >= VARIED else "low",
    )
    iql = Candidate(
        "DiscreteIQL",
        f"configs/discrete_iql/{domain}.yaml",
        "`expectile` 0.7",
        "it never asks for the value of an action outside the log",
    )
    return [bcq, iql] if narrow or answers.dangerous else [cql, bcq, iql]


def _bc(spec: DatasetSpec) -> str:
    domain = domain_of(spec)
    discrete = spec.discrete and domain == "classic_control"
    return f"configs/bc/{domain}{'_discrete' if discrete else ''}.yaml"


def _baselines(spec: DatasetSpec) -> list[Candidate]:
    return [
        Candidate("BC", _bc(spec), "none: it only imitates", "baseline", "medium"),
        Candidate(
            "10 % BC",
            f"{_bc(spec)} with `--data.top_fraction 0.1`",
            "none: it imitates the best episodes",
            "baseline",
            "medium",
        ),
    ]
