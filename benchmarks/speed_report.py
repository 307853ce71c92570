"""Tables and the plot of the speed benchmarks.

python benchmarks/speed_report.py --records benchmarks/speed_runs --images docs/images
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

import matplotlib

from benchmarks.records import DEFAULT_FOLDER, Record, read_records
from lit_offrl.report.plot_style import LINES, plot_style

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator

PEERS = {
    "d3rlpy fit": ("d3rlpy", "fit"),
    "d3rlpy bare": ("d3rlpy", "bare"),
    "TorchRL": ("TorchRL", "bare"),
    "TorchRL compiled": ("TorchRL compiled", "bare"),
}
QUANTITIES = {
    "batch": "batch size",
    "width": "width of the hidden layers",
    "critics": "critics in the ensemble",
    "transitions": "transitions in the data set",
}


def report(folder: Path, name: str, images: Path | None = None) -> str:
    """Make the Markdown of one file of records, ``speed``, ``startup``, ``growth`` or ``seeds``.

    Args:
        folder: Where the records are.
        name: Which of them.
        images: Folder of the plot; without one none is drawn.
    """
    first, *records = read_records(folder / f"{name}.jsonl") or [{}]
    if not records:
        return ""
    parts = []
    for kind, (heading, table) in TABLES.items():
        rows = [record for record in records if record["kind"] == kind]
        if rows:
            parts += [f"### {heading}", describe(first, rows), "\n".join(table(rows))]
            if kind == "growth" and images is not None:
                images.mkdir(parents=True, exist_ok=True)
                draw_growth(rows, images / "speed_growth.png")
                parts.append("![Cost of an update](images/speed_growth.png)")
    return "\n\n".join(parts)


def describe(machine: Record, records: list[Record]) -> str:
    """Say in two sentences where and when records were made, and how updates ran."""
    avx512 = "with" if machine["avx512"] else "without"
    ours = {"compiled" if record["compiled"] else "eager" for record in records}
    return (
        f"Measured on {machine['date']}, {machine['cores']} cores of {machine['cpu']} {avx512} "
        f"AVX-512, load {machine['load']} at the end, torch {machine['torch']}, "
        f"Python {machine['python']}. Updates of lit_offrl: {' and '.join(sorted(ours))}."
    )


def rate_table(records: list[Record]) -> Iterator[str]:
    """Updates per second, the share of the machine's peak, and ratios of those measured."""
    libraries = {record["library"] for record in records}
    peers = {head: key for head, key in PEERS.items() if key[0] in libraries}
    heads = ["", "lit_offrl fit", "lit_offrl bare", "MFLOP per update", "of the sgemm peak"]
    heads += [*peers, *(f"fit / {head}" for head in peers)]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for name in dict.fromkeys(record["algorithm"] for record in records):
        cells = {(r["library"], r["way"]): r for r in records if r["algorithm"] == name}
        fit, bare = cells["lit_offrl", "fit"], cells["lit_offrl", "bare"]
        share = bare["flops"] / bare["seconds"] / bare["peak_flops"]
        found = [cells.get(key) for key in peers.values()]
        row = [name, rate(fit), rate(bare), f"{bare['flops'] / 1e6:.4g}"]
        row.append(f"{share:.0%} of {bare['peak_flops'] / 1e9:.0f} GFLOP/s")
        row += [rate(cell) if cell else "–" for cell in found]
        row += [f"**{c['seconds'] / fit['seconds']:.2f}**" if c else "–" for c in found]
        yield f"| {' | '.join(row)} |"


def rate(record: Record) -> str:
    """Updates per second."""
    return f"{1 / record['seconds']:.3g}"


def tax_table(records: list[Record]) -> Iterator[str]:
    """What ``fit`` adds to the bare update."""
    yield "| updates per `training_step` | fit over bare (quartiles over rounds) |"
    yield "|---|---|"
    for record in records:
        yield f"| {record['algorithm']}, K = {record['k']} | {spread(record['ratios'])} |"


def startup_table(records: list[Record]) -> Iterator[str]:
    """Seconds to the first update, and memory."""
    yield "| | run | s to the end of the first update | peak memory, MB |"
    yield "|---|---|---|---|"
    for record in records:
        cells = [record["algorithm"], record["case"]]
        yield f"| {' | '.join(cells)} | {record['seconds']:.1f} | {record['peak_mb']:.0f} |"


def growth_table(records: list[Record]) -> Iterator[str]:
    """Cost of an update relative to that of the base."""
    yield "| | quantity | value | cost relative to the base (quartiles) | updates/s |"
    yield "|---|---|---|---|---|"
    for record in sorted(records, key=growth_order):
        per_second = 1 / (record["base_seconds"] * statistics.median(record["cost"]))
        cells = [record["algorithm"], QUANTITIES[record["quantity"]], f"{record['value']:,}"]
        yield f"| {' | '.join(cells)} | {spread(record['cost'])} | {per_second:.3g} |"


def growth_order(record: Record) -> tuple[str, int, int]:
    """Order of the rows: algorithm, quantity, value."""
    return record["algorithm"], list(QUANTITIES).index(record["quantity"]), record["value"]


def seeds_table(records: list[Record]) -> Iterator[str]:
    """What several seeds at once cost beside as many runs of one seed."""
    yield (
        "| | width | seeds | CPU ms per update: one seed | all at once | at once / one by one "
        "(quartiles) | s to compile: one, all | the same with compiling, 20,000 updates |"
    )
    yield "|---" * 8 + "|"
    for r in records:
        n, one, all_ = r["seeds"], r["one_seconds"], r["all_seconds"]
        total = (r["all_compile"] + 20_000 * all_) / (n * (r["one_compile"] + 20_000 * one))
        cells = [r["algorithm"], str(r["width"]), str(n), f"{1e3 * one:.3g}", f"{1e3 * all_:.3g}"]
        cells += [spread(r["ratios"]), f"{r['one_compile']:.0f}, {r['all_compile']:.0f}"]
        yield f"| {' | '.join(cells)} | {total:.2f} |"


def spread(ratios: list[float]) -> str:
    """Median and quartiles of ratios."""
    median = f"{statistics.median(ratios):.3g}"
    if len(ratios) < 2:
        return median
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{median} ({low:.3g} to {high:.3g})"


TABLES = {
    "rate": ("Updates per second", rate_table),
    "tax": ("What Lightning costs", tax_table),
    "startup": ("Start-up and memory", startup_table),
    "growth": ("How cost grows", growth_table),
    "seeds": ("Several seeds at once", seeds_table),
}


def draw_growth(records: list[Record], path: Path) -> None:
    """Draw the cost over each quantity, one panel each, one line per algorithm."""
    algorithms = sorted({record["algorithm"] for record in records})
    with plot_style():
        figure, axes = plt.subplots(2, 2, figsize=(7.2, 5.2), sharey=True, layout="constrained")
        for axis, (quantity, label) in zip(axes.flat, QUANTITIES.items(), strict=True):
            for algorithm, (color, dash) in zip(algorithms, LINES, strict=False):
                points = sorted(
                    (record["value"], statistics.median(record["cost"]))
                    for record in records
                    if (record["algorithm"], record["quantity"]) == (algorithm, quantity)
                )
                axis.plot(
                    *zip(*points, strict=True), dash, color=color, marker="o", label=algorithm
                )
            axis.set(xscale="log", yscale="log", title=label)
            axis.set_xticks([value for value, _ in points], [f"{v:,}" for v, _ in points])
            axis.yaxis.set_major_locator(LogLocator(base=2))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.minorticks_off()
        axes[0, 0].legend()
        figure.supylabel("cost of an update, relative to the base")
        figure.savefig(path, dpi=120)
        plt.close(figure)


def main() -> None:
    """Print all tables and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--records", type=Path, default=DEFAULT_FOLDER, help="their folder")
    parser.add_argument("--images", type=Path, help="folder of the plot; by default --records")
    options = parser.parse_args()
    for name in ("speed", "startup", "growth", "seeds"):
        print(report(options.records, name, options.images or options.records), end="\n\n")


if __name__ == "__main__":
    main()
