"""The results as plots: SVG that is the same for the same results, readable on white and on black."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

from .peers import ASYNCIO, C_BY_PDU, DCMTK, PYNETDICOM, UVLOOP, C

if TYPE_CHECKING:
    from pathlib import Path

    from .report import Results

COLOURS = {
    UVLOOP: "#2f81f7",
    ASYNCIO: "#00a3b4",
    C: "#8c939c",
    C_BY_PDU: "#b08d57",
    DCMTK: "#e8590c",
    PYNETDICOM: "#3fa34d",
}
INK = "#808890"
_PDUS = {
    16: "512 KB CT, 1 association",
    64: "512 KB CT, 1 association, 64 KiB PDUs",
    1024: "512 KB CT, 1 association, 1 MiB PDUs",
}
_ASSOCIATIONS = {count: f"512 KB CT, {count} association{'s' * (count > 1)}" for count in (1, 16, 100)}
_OPEN = {count: f"{count:,} open associations" for count in (100, 1000, 5000, 10000)}
FOR_README = "throughput-by-associations.svg"


def plot(results: Results, folder: Path) -> list[str]:
    """Write them all; the names of the files. Nothing where matplotlib is not installed."""
    try:
        import matplotlib as mpl
    except ImportError:
        return []
    mpl.use("svg")
    from matplotlib import pyplot as plt

    style = {
        "svg.hashsalt": "asyncdicom",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    drawn = []
    with mpl.rc_context(style):
        for name, title, x, y, log, lines in (
            (
                "throughput-by-pdu-size.svg",
                "Receiving 512 KB instances, 1 association",
                "maximum PDU length, KiB",
                "MB/s",
                False,
                _lines(results, _PDUS, (UVLOOP, ASYNCIO, C, C_BY_PDU, DCMTK, PYNETDICOM)),
            ),
            (
                FOR_README,
                "Receiving 512 KB instances, PDUs of 16 KiB",
                "associations",
                "MB/s",
                False,
                _lines(results, _ASSOCIATIONS, (UVLOOP, ASYNCIO, C, C_BY_PDU, DCMTK, PYNETDICOM)),
            ),
            (
                "memory-by-open-associations.svg",
                "Memory of an open association",
                "open associations",
                "KB each",
                True,
                _lines(results, _OPEN, (UVLOOP, ASYNCIO, C, DCMTK, PYNETDICOM)),
            ),
            (
                "latency-by-open-associations.svg",
                "C-ECHO meanwhile: p50, dashed p99",
                "open associations",
                "ms",
                True,
                _lines(results, _OPEN, (UVLOOP, ASYNCIO, C, DCMTK, PYNETDICOM), "C-ECHO p50 ms")
                + _lines(results, _OPEN, (UVLOOP, ASYNCIO, C, DCMTK, PYNETDICOM), "C-ECHO p99 ms"),
            ),
        ):
            if not any(values for _, values, _ in lines):
                continue
            figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
            for peer, values, dashed in lines:
                style = {"linestyle": "--"} if dashed else {"label": peer}
                axes.plot(list(values), list(values.values()), marker="o", markersize=4, color=COLOURS[peer], **style)
            ticks = sorted({tick for _, values, _ in lines for tick in values})
            axes.set(title=title, xlabel=x, ylabel=y, xscale="log")
            axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            axes.minorticks_off()
            if log:
                axes.set_yscale("log")
                axes.yaxis.set_major_formatter("{x:g}")
            else:
                axes.set_ylim(bottom=0)
                axes.yaxis.set_major_formatter("{x:,.0f}")
            axes.grid(visible=True, axis="y", color=INK, alpha=0.25, linewidth=0.6)
            figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
            figure.savefig(folder / name, transparent=True, metadata={"Date": None, "Creator": None})
            plt.close(figure)
            drawn.append(name)
    return drawn


def _lines(
    results: Results, scenarios: dict[int, str], peers: tuple[str, ...], what: str = ""
) -> list[tuple[str, dict[int, float], bool]]:
    """For each peer that was measured: its medians by the number that the scenarios differ in, and if it is dashed."""
    lines = []
    for peer in peers:
        values = {}
        for number, name in scenarios.items():
            if several := results.samples(name).get(peer):
                values[number] = median(each.more[what] if what else each.value for each in several)
        if values:
            lines.append((peer, values, "p99" in what))
    return lines
