from dataclasses import replace
from typing import NamedTuple

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from lit_offrl.evaluation.estimate import Estimate, inapplicable
from lit_offrl.report import Curve, KnownValue, Report, Scatter, figures
from lit_offrl.report.figures import drawings
from lit_offrl.report.rendering import to_svg
from tests.report.examples import empty_report, failing_report


def report_of(**parts: object) -> Report:
    return replace(empty_report(), **parts)  # type: ignore[arg-type]


class Line(NamedTuple):
    label: str
    marker: object
    face: object
    dashes: object
    color: object
    x: list[float]
    y: list[float]


def lines_of(figure: Figure) -> list[Line]:
    return [
        Line(
            str(line.get_label()),
            line.get_marker(),
            line.get_markerfacecolor(),
            line.get_linestyle(),
            line.get_color(),
            np.asarray(line.get_xdata()).tolist(),
            np.asarray(line.get_ydata()).tolist(),
        )
        for line in figure.axes[0].lines
    ]


def test_each_part_with_numbers_gets_a_figure() -> None:
    assert list(figures(failing_report())) == [
        "estimates",
        "return_in_the_environment",
        "q_against_monte_carlo_return",
        "distance_to_the_behavior_policy",
        "effective_share_of_the_weights",
        "q_against_return_to_go",
    ]
    assert figures(empty_report()) == {}
    assert figures(report_of(estimates=[inapplicable("IS", "importance sampling", "-")])) == {}


def test_figures_have_titles_and_labelled_axes_with_units() -> None:
    for figure in figures(failing_report()).values():
        (axes,) = figure.axes
        assert axes.get_title(loc="left") and axes.get_xlabel() and axes.get_ylabel()
    forest = figures(failing_report())["estimates"].axes[0]
    assert forest.get_xlabel() == "discounted return (raw reward), 95 % intervals"


def test_curves_of_the_same_title_do_not_share_a_name() -> None:
    curve = Curve("Estimates", "y", [0], {"a": [1.0]})
    assert list(figures(report_of(curves=[curve, curve]))) == ["estimates_2", "estimates_3"]


def test_the_forest_plot_shows_each_estimate_where_it_is() -> None:
    figure = figures(failing_report())["estimates"]
    axes = figure.axes[0]
    markers = {line.y[0]: (line.x[0], line.face) for line in lines_of(figure) if line.marker == "o"}
    assert [label.get_text() for label in axes.get_yticklabels()][:2] == ["FQE", "model"]
    assert [markers[row][0] for row in range(5)] == [262.4, 248.9, 255.1, 310.4, 1912.7]
    assert [markers[row][1] == "white" for row in range(5)] == [False] * 3 + [True] * 2
    assert set(markers) == set(range(5))  # what does not apply has no marker
    bar = next(line for line in lines_of(figure) if line.y == [1, 1])
    assert bar.x == [212.7, 281.4]
    assert axes.yaxis_inverted()


def test_known_returns_are_lines_of_the_forest_plot() -> None:
    figure = figures(failing_report())["estimates"]
    known = {line.label: line.x[0] for line in lines_of(figure) if "policy" in line.label}
    assert known == {"behavior policy": 231.4, "policy, online": 241.0}
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["valid", "dropped", "behavior policy", "policy, online"]


def test_a_wild_dropped_estimate_does_not_squash_the_others() -> None:
    figure = figures(failing_report())["estimates"]
    low, high = figure.axes[0].get_xlim()
    assert low < 212.7 and high > 290.3
    assert high - low < 2.2 * (290.3 - 212.7)
    arrows = [(line.marker, line.y[0]) for line in lines_of(figure) if line.marker in ("<", ">")]
    assert arrows == [("<", 3), (">", 3), ("<", 4), (">", 4)]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "estimates",
    [
        [Estimate("FQE", "FQE", 5.0)],
        [Estimate("FQE", "FQE", 5.0, (float("nan"), 6.0))],
        [Estimate("FQE", "FQE", 5.0, (float("-inf"), 6.0))],
        [Estimate("WIS", "importance sampling", 5.0, (0.0, 9.0), status="dropped")],
    ],
)
def test_the_forest_plot_stands_odd_estimates(estimates: list[Estimate]) -> None:
    for known in (None, KnownValue(5.0), KnownValue(-2.0, (-3.0, -1.0))):
        figure = figures(report_of(estimates=estimates, behavior_value=known))["estimates"]
        low, high = figure.axes[0].get_xlim()
        assert -1e3 < low < 5.0 < high < 1e3
        to_svg(figure, "x")


def test_series_differ_in_color_and_in_dashes() -> None:
    labels = ["a", "b", "c", "d"]
    curve = Curve("c", "y", [0, 1], {label: [0.0, 1.0] for label in labels}, hlines={"h": 0.5})
    figure = figures(report_of(curves=[curve]))["c"]
    lines = lines_of(figure)
    assert len({line.dashes for line in lines[:4]}) == 4
    assert len({line.color for line in lines}) == 5
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*labels, "h"]


def test_a_single_series_needs_no_legend_and_a_single_point_is_seen() -> None:
    figure = figures(report_of(curves=[Curve("c", "y", [5], {"a": [1.0]})]))["c"]
    assert not figure.legends
    assert lines_of(figure)[0].marker == "o"


def test_the_scatter_has_a_diagonal_over_all_points() -> None:
    scatter = Scatter("s", "x", "y", [0.0, 4.0], [-1.0, 3.0], 2)
    (line,) = lines_of(figures(report_of(scatters=[scatter]))["s"])
    assert line.x == line.y == [-1.0, 4.0]
    to_svg(figures(report_of(scatters=[Scatter("s", "x", "y", [], [], 0)]))["s"], "x")


def test_dollars_and_tags_in_titles_are_drawn_as_they_are() -> None:
    curve = Curve("$x^$ <b>&", "y$_$", [0], {"$^a": [1.0], "b$": [2.0]})
    svg = to_svg(figures(report_of(curves=[curve]))["x_b"], "x")
    assert "$x^$ &lt;b&gt;&amp;" in svg and "$^a" in svg and "<b>" not in svg


def test_the_user_settings_of_matplotlib_neither_show_nor_change() -> None:
    plain = to_svg(figures(failing_report())["estimates"], "x")
    with matplotlib.rc_context({"font.size": 40, "axes.facecolor": "black", "axes.grid": False}):
        before = dict(matplotlib.rcParams)
        assert to_svg(figures(failing_report())["estimates"], "x") == plain
        assert dict(matplotlib.rcParams) == before


def test_descriptions_give_the_numbers_of_the_figures() -> None:
    drawn = drawings(failing_report())
    assert "IS 1,913 (dropped), behavior 231.4, online 241." in drawn["estimates"].description
    assert "watch 0.5; fail 2." in drawn["distance_to_the_behavior_policy"].description
    assert drawn["q_against_return_to_go"].description.startswith("600 of 20,480 points; 7")
    gap = Curve("c", "y", [0, 1], {"a": [1.0, float("nan")], "b": [float("nan")] * 2})
    assert drawings(report_of(curves=[gap]))["c"].description == (
        "a ends at 1 (range 1 to 1); b has no values."
    )
