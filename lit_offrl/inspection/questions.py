"""What only the user can say, and what each answer would change."""

from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from lit_offrl.errors import InputError

QUESTIONS = {
    "can_collect": "Can you collect more data with a policy of your choice?",
    "expensive": "Is collecting it expensive?",
    "dangerous": "Can a bad action do harm?",
    "confounding": "Did those who acted know something that the observations do not hold?",
}
CHANGES = {
    "can_collect": "if yes: online RL where that is cheap and safe, fine-tuning where it is dear",
    "expensive": "if you can collect: if no, and nothing is dangerous, online RL; if yes, "
    "fine-tuning",
    "dangerous": "if yes: the most conservative candidate first, and no exploration",
    "confounding": "if yes: this log cannot support a conclusion",
}


@dataclass(frozen=True)
class Answers:
    """Answers of the user; None is open.

    Args:
        can_collect: Whether more data can be collected.
        expensive: Whether that is expensive.
        dangerous: Whether a bad action can do harm.
        confounding: Whether unobserved confounding is suspected.
    """

    can_collect: bool | None = None
    expensive: bool | None = None
    dangerous: bool | None = None
    confounding: bool | None = None

    @property
    def cheap_and_safe(self) -> bool:
        """Whether all three answers together speak for online RL."""
        answers = (self.can_collect, self.expensive, self.dangerous)
        return answers == (True, False, False)

    @property
    def can_afford_some(self) -> bool:
        """Whether a few episodes can be collected without harm, at a price."""
        return self.can_collect is True and self.expensive is True and not self.dangerous

    def open(self) -> list[str]:
        """Each open question with what its answer would change."""
        names = [field.name for field in fields(self) if getattr(self, field.name) is None]
        return [f"`--{name}`: {QUESTIONS[name]} ({CHANGES[name]})" for name in names]


def read_answers(path: Path) -> Answers:
    """Read a YAML file such as ``can_collect: no``.

    Raises:
        InputError: If it cannot be read, or holds anything but these answers.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        raise InputError(f"Cannot read the answers in {path}: give a YAML file.") from None
    known = ", ".join(QUESTIONS)
    if not isinstance(values, dict) or set(values) - set(QUESTIONS):
        raise InputError(f"{path} may hold {known}, and nothing else.")
    if wrong := [name for name, value in values.items() if not isinstance(value, bool | None)]:
        raise InputError(f"{path}: answer `{wrong[0]}` with yes or no.")
    return Answers(**values)
