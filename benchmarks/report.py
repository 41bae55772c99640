"""The results as JSON, as a Markdown table, and as a section of the README."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from .peers import (
    ASYNCIO,
    C_BY_PDU,
    DCMTK,
    IGNORE,
    ORTHANC,
    PYNETDICOM,
    QRSCP,
    RAW_ASYNCIO,
    RAW_UVLOOP,
    STOCK,
    STOCK_DCMTK,
    STORESCU,
    TWO_WORKERS,
    UVLOOP,
    C,
)
from .processes import file_system
from .scenarios import CT, RETRIEVING, Run, Sample, Scenario
from .targets import TARGETS, number, ratio

if TYPE_CHECKING:
    from .scenarios import Errors, Samples

RECEIVING = (UVLOOP, ASYNCIO, IGNORE, TWO_WORKERS, C, C_BY_PDU, RAW_UVLOOP, RAW_ASYNCIO, DCMTK, ORTHANC, PYNETDICOM)
SENDING = (UVLOOP, ASYNCIO, C, "storescu", "dcmsend", PYNETDICOM)


@dataclass
class Results:
    """All that was measured, on one machine, at one time."""

    facts: dict[str, str]
    """What the absolute numbers depend on."""
    scenarios: list[tuple[Scenario, Samples, Errors]]

    def samples(self, name: str) -> Samples:
        """Those of a scenario; nothing if it was not measured."""
        return next((samples for scenario, samples, _ in self.scenarios if scenario.name == name), {})

    def replaced(self, others: Results) -> Results:
        """These, with what others have in place of the scenarios of the same names."""
        newer = {scenario.name: (scenario, samples, errors) for scenario, samples, errors in others.scenarios}
        return Results(self.facts, [newer.get(each[0].name, each) for each in self.scenarios])

    def median(self, name: str, peer: str, what: str = "value") -> float | None:
        """The median of a peer's runs."""
        several = self.samples(name).get(peer)
        if not several or getattr(several[0], what) is None:
            return None
        return median(getattr(each, what) for each in several)


def machine(run: Run) -> dict[str, str]:
    """Where and how it is measured."""
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {model[1] if model else platform.machine()}",
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "files": file_system(run.folder).partition(" ")[0],
        "files with fsync, and large ones": file_system(run.disk),
        "rounds": str(run.rounds),
        "seconds": f"{run.seconds:g}",
        "Python": platform.python_version() + " of the distribution" * (sys.base_prefix == "/usr"),
    }
    for package in ("asyncdicom", "uvloop", "pynetdicom"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    for name, command in (("DCMTK", "storescp"), ("Orthanc", "Orthanc"), ("OpenSSL", "openssl")):
        try:
            words = [command, "version" if command == "openssl" else "--version"]
            output = subprocess.run(words, capture_output=True, text=True, check=False, timeout=10).stdout
            facts[name] = re.search(r"(?:v|[Oo]rthanc |OpenSSL )(\d[\d.]*)", output)[1]
        except (OSError, TypeError):
            continue
    return facts


# JSON


def save(results: Results, file: Path) -> None:
    """Every run, a line for each peer."""
    lines = []
    for scenario, samples, errors in results.scenarios:
        peers = [f'"runs {name}": {json.dumps([_compact(each) for each in runs])}' for name, runs in samples.items()]
        own = {**asdict(scenario), "peers": list(scenario.peers), "errors": errors}
        lines.append(",\n  ".join([f'{{"scenario": {json.dumps(own)}', *peers]) + "\n }")
    body = ",\n ".join(lines)
    file.write_text(f'{{"facts": {json.dumps(results.facts)},\n"results": [\n {body}\n]}}\n')


def _compact(sample: Sample) -> list:
    def short(value: object) -> object:
        return float(f"{value:.5g}") if isinstance(value, float) else value

    more = {key: short(value) for key, value in (sample.more or {}).items()}
    return [short(sample.value), short(sample.cpu), more]


def load(file: Path) -> Results:
    """What :func:`save` has written."""
    data = json.loads(file.read_text())
    names = {field.name for field in fields(Scenario)}
    scenarios = []
    for entry in data["results"]:
        own = entry["scenario"]
        scenario = Scenario(**{key: value for key, value in own.items() if key in names})
        samples = {
            key.removeprefix("runs "): [Sample(*each) for each in runs]
            for key, runs in entry.items()
            if key != "scenario"
        }
        scenarios.append((scenario, samples, own["errors"]))
    return Results(data["facts"], scenarios)


# Markdown

_ABOUT = """\
Medians of at least {rounds} alternating rounds of {seconds} s. A ratio is the median of the rounds' ratios. In brackets
stand the CPU seconds of that process and its children per GB (per 1,000 operations where objects are small). PDUs are
of 16 KiB, and receivers drop what they get, unless the line says otherwise. With one association the receiver has one
core and the sender another; those with threads, Orthanc and pynetdicom, have all. With more associations all have all.

*uvloop* and *asyncio* are asyncdicom on either event loop, with a handler that consumes the data set view by view; *not
consumed* has one that returns at once. *C* is a receiver of our own that gathers each data set in a buffer from few
large reads, the best that is simple; *C by PDU* makes two system calls for each PDU, as receivers usually do, and
copies nothing. Every receiver gets its data from the same C sender, which keeps one message at a time in flight on each
association and acknowledges at once: Nagle's algorithm, which DCMTK and Orthanc leave on, costs them nothing here.
What it costs is under *stock*.
"""


def markdown(results: Results, plots: list[str]) -> str:
    """All tables."""
    facts = results.facts
    shown = [f"{key} {value}" if key != "machine" else value for key, value in facts.items()]
    lines = [
        "# Measurements",
        "",
        f"Loopback; {', '.join(each for each in shown if not each.startswith(('rounds', 'seconds')))}.",
        "",
        *_ABOUT.format(**facts).splitlines(),
        "",
    ]
    lines += ["## Wanted and measured", "", *_targets(results)]
    lines += ["## Receiving", "", *_rates(results, "receive", RECEIVING, (C, C_BY_PDU, DCMTK, ORTHANC, PYNETDICOM))]
    lines += ["## Sending, to C", "", *_rates(results, "send", SENDING, SENDING[2:])]
    lines += ["## Retrieving", "", *_rates(results, "retrieve", RETRIEVING, (STORESCU, QRSCP, DCMTK, PYNETDICOM))]
    lines += ["## Stock senders to stock receivers", "", *_stock(results)]
    lines += ["## Many associations, latency, memory", "", *_others(results)]
    notes = [f"- {scenario.name}: {scenario.note}" for scenario, _, _ in results.scenarios if scenario.note]
    failures = [
        f"- {scenario.name}: {name}: {why}" for scenario, _, errors in results.scenarios for name, why in errors.items()
    ]
    if notes:
        lines += ["## Notes", "", *notes, ""]
    if failures:
        lines += ["## Not measured", "", *failures, ""]
    for plot in plots:
        lines += [f"![{plot.partition('.')[0].replace('-', ' ')}]({plot})", ""]
    return "\n".join(lines)


def _targets(results: Results) -> list[str]:
    rows = []
    for target in TARGETS:
        measured = target.measured(results.samples(target.scenario))
        if target.other:
            words = "the C receiver" if target.other == C else "one worker" if target.other == UVLOOP else target.other
            if target.scenario.startswith("sending") and target.other == C:
                words = "a C sender"
            wanted = f">= {target.wanted:g} of {words}" if target.wanted < 1 else f">= {target.wanted:g} x {words}"
        else:
            wanted = f"< {target.wanted:g} {target.unit}"
        rate = results.median(target.scenario, target.mine) if target.other else None
        unit = next((scenario.unit for scenario, _, _ in results.scenarios if scenario.name == target.scenario), "")
        cpu = results.median(target.scenario, target.mine, "cpu")
        cells = [f"{number(rate)} {unit}" if rate else "", number(cpu) if cpu else ""]
        rows.append([target.scenario, wanted, measured or "not measured", *cells])
    return _table(["work", "wanted", "measured", "rate", "CPU s per GB or 1,000"], rows)


def _rates(results: Results, kind: str, columns: tuple[str, ...], others: tuple[str, ...]) -> list[str]:
    scenarios = [(scenario, samples) for scenario, samples, _ in results.scenarios if scenario.kind == kind]
    head = [name.replace("asyncdicom uvloop, ", "").replace("asyncdicom ", "") for name in columns]
    rates, ratios = [], []
    for scenario, samples in scenarios:
        name = f"{scenario.name}, {scenario.unit}"
        rates.append([name, *(_cell(samples.get(peer)) for peer in columns)])
        if kind in ("send", "retrieve"):
            rates.append(
                [f"the same, whole command, {scenario.unit}", *(_whole(samples.get(peer)) for peer in columns)]
            )
        found = (ratio(samples, UVLOOP, other) for other in others)
        ratios.append([scenario.name, *("" if each is None else number(each) for each in found)])
    return [*_table(["", *head], rates), *_table(["uvloop's ratio to", *others], ratios)]


def _stock(results: Results) -> list[str]:
    rows = []
    for scenario, samples, _ in results.scenarios:
        if scenario.kind == "stock":
            value = ratio(samples, STOCK, STOCK_DCMTK)
            cells = [_cell(samples.get(STOCK)), _cell(samples.get(STOCK_DCMTK)), number(value) if value else ""]
            rows.append([f"{scenario.name}, {scenario.unit}", *cells])
    return _table(["", f"to {STOCK}", f"to {STOCK_DCMTK}", "ratio"], rows)


def _others(results: Results) -> list[str]:
    lines = []
    for scenario, samples, _ in results.scenarios:
        if scenario.kind in ("receive", "send", "retrieve", "stock") or not samples:
            continue
        more = list(next(iter(samples.values()))[0].more or {})
        rows = [
            [
                name,
                number(median(each.value for each in several)),
                *(number(median(each.more[key] for each in several)) for key in more),
            ]
            for name, several in samples.items()
        ]
        lines += _table([scenario.name, scenario.unit, *more], rows)
    return lines


def _cell(several: list[Sample] | None) -> str:
    if not several:
        return ""
    cpu = f" ({number(median(each.cpu for each in several))})" if several[0].cpu is not None else ""
    return number(median(each.value for each in several)) + cpu


def _whole(several: list[Sample] | None) -> str:
    return number(median(each.more["whole command"] for each in several)) if several else ""


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    rows = [row for row in rows if any(row[1:])]
    if not rows:
        return []
    kept = [0, *(index for index in range(1, len(head)) if any(row[index] for row in rows))]
    align = ["---" if index == 0 else "---:" for index in kept]
    table = [[head[index] for index in kept], align, *([row[index] for index in kept] for row in rows)]
    return [*(f"| {' | '.join(row)} |" for row in table), ""]


# README

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"

_README = (
    ("receiving 512 KB instances, 1 association", "512 KB CT, 1 association", UVLOOP, DCMTK, PYNETDICOM),
    ("the same, 16 associations", "512 KB CT, 16 associations", UVLOOP, DCMTK, PYNETDICOM),
    ("into files, 1 association", "512 KB CT to files, 1 association", UVLOOP, DCMTK, PYNETDICOM),
    ("into files, 16 associations", "512 KB CT to files, 16 associations", UVLOOP, DCMTK, PYNETDICOM),
    ("the same, `workers=2`", "512 KB CT to files, 16 associations", TWO_WORKERS, DCMTK, PYNETDICOM),
    ("receiving 4 KB objects, 16 associations", "4 KB objects, 16 associations", UVLOOP, DCMTK, PYNETDICOM),
    ("an association for each instance", "512 KB CT, an association for each of 500", UVLOOP, DCMTK, PYNETDICOM),
    ("C-ECHO over 100 associations", "C-ECHO, 100 associations", UVLOOP, DCMTK, PYNETDICOM),
    ("over TLS 1.3, 16 associations", "512 KB CT over TLS 1.3, 16 associations", UVLOOP, DCMTK, PYNETDICOM),
    (
        "sending 512 KB files (DCMTK: `dcmsend`)",
        "sending 512 KB CT files, 1 association",
        UVLOOP,
        "dcmsend",
        PYNETDICOM,
    ),
    ("sending 4 KB files (DCMTK: `dcmsend`)", "sending 4 KB files, 1 association", UVLOOP, "dcmsend", PYNETDICOM),
    ("what stock `storescu` reaches with `storescp`", "stock storescu, 50 CT files", STOCK, STOCK_DCMTK, ""),
)


def readme_section(results: Results, plot: str) -> str:
    """A table for those who choose, and one plot."""
    facts = results.facts
    programs = ", ".join(f"{each} {facts[each]}" for each in ("Python", "DCMTK", "pynetdicom") if each in facts)
    lines = [
        f"`make bench` on {facts['date']}: {facts['machine']}, loopback, {programs};",
        f"medians of at least {facts['rounds']} alternating rounds. Absolute figures belong to the machine; the ratios",
        "are what to compare. All of it, with the loopback's own limit, is in",
        "[benchmarks/results/results.md](benchmarks/results/results.md). With several associations",
        "DCMTK's `storescp --fork` has a process for each, on both cores.",
        "",
    ]
    units = {
        scenario.name: (scenario.unit, "GB" if scenario.size >= CT else "1,000") for scenario, _, _ in results.scenarios
    }
    rows = []
    for words, name, mine, *others in _README:
        rate, cpu = results.median(name, mine), results.median(name, mine, "cpu")
        if rate is None:
            continue
        unit, per = units[name]
        found = [ratio(results.samples(name), mine, other) for other in others]
        cells = ("" if each is None else f"{number(each)} x" for each in found)
        rows.append([words, f"{number(rate)} {unit}", f"{number(cpu)} s per {per}", *cells])
    lines += _table(["", "asyncdicom", "CPU time", "to DCMTK", "to pynetdicom"], rows)
    name = "10,000 open associations"
    if found := results.samples(name).get(UVLOOP):
        more = {key: number(median(each.more[key] for each in found)) for key in found[0].more}
        lines += [
            f"{name} in one process: {number(median(each.value for each in found))} KB each, opened in "
            f"{more['opened in s']} s, {more['idle CPU %']} % of a core when",
            f"idle, C-ECHO answered within {more['C-ECHO p99 ms']} ms in 99 of 100 cases meanwhile.",
            "",
        ]
    lines += [f"![Throughput by number of associations]({plot})"]
    return "\n".join(lines)


def write_readme(section: str, file: Path) -> None:
    """Put the section between its two marks. Raises ValueError if they are not there."""
    before, begin, rest = file.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{file} has no {BEGIN} ... {END}")
    file.write_text(f"{before}{BEGIN}\n{section}\n{END}{after}")
