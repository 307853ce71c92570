"""What a log holds, what is wrong with it, and what to try on it."""

from lit_offrl.inspection.questions import Answers
from lit_offrl.inspection.report import DataReport, inspect, inspect_transitions

__all__ = ["Answers", "DataReport", "inspect", "inspect_transitions"]
