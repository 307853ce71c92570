"""One look for all figures: readable in black and white and by the color-blind."""

import contextlib
from collections.abc import Iterator

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, GRAY = "#0072B2", "#D55E00", "#007A5A", "#555555"
# color and dash both tell series apart; Okabe and Ito (2008)
LINES = [(BLUE, "-"), (VERMILION, "--"), ("#000000", "-."), (GREEN, ":"), ("#CC79A7", "-")]
STYLE = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "font.size": 9.5,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text: it can be selected, searched and read aloud
    "text.parse_math": False,  # a dollar in a data set's name is a dollar
}


@contextlib.contextmanager
def plot_style() -> Iterator[None]:
    """Draw or save in the report's own style, whatever the user's matplotlib is set to."""
    with style.context(["default", STYLE]):
        yield


def draw_legend(figure: Figure, axes: Axes) -> None:
    """Put the legend below the axes, where it covers nothing."""
    handles, labels = axes.get_legend_handles_labels()
    # not so many beside each other that long labels leave the figure
    columns = max(1, min(len(labels), 60 // max(len(label) + 6 for label in labels)))
    figure.legend(handles, labels, loc="outside lower left", ncols=columns)
