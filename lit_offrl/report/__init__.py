"""The report: whether to use a policy, why, and what that rests on."""

from lit_offrl.report.content import Conclusion, Curve, KnownValue, Report, Scatter
from lit_offrl.report.figures import figures
from lit_offrl.report.writing import log_estimates, log_figures, write_report

__all__ = [
    "Conclusion",
    "Curve",
    "KnownValue",
    "Report",
    "Scatter",
    "figures",
    "log_estimates",
    "log_figures",
    "write_report",
]
