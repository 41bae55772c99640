"""The results as a Markdown table and as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from .peers import ASYNCIO, C_BY_PDU, DCMTK, IGNORE, PYNETDICOM, UVLOOP, C

if TYPE_CHECKING:
    from .scenarios import Errors, Run, Samples, Scenario

Results = list[tuple["Scenario", "Samples", "Errors"]]
COLUMNS = (UVLOOP, ASYNCIO, IGNORE, C, C_BY_PDU, DCMTK, PYNETDICOM)

CT_ONE, CT_MANY = "512 KB CT, 1 association", "512 KB CT, 16 associations"
FLOORS = ((CT_ONE, DCMTK, 1), (CT_ONE, PYNETDICOM, 10))
CEILINGS = (("open associations: memory each", 64), ("1 GiB instance to a file: memory added at the peak", 16))


def machine() -> dict[str, str]:
    """What the absolute numbers depend on."""
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    facts = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{os.cpu_count()} cores, {model[1] if model else platform.machine()}",
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "Python": platform.python_version(),
    }
    for package in ("asyncdicom", "uvloop", "pynetdicom"):
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    try:
        version = subprocess.run(["storescp", "--version"], capture_output=True, text=True, check=False, timeout=10)
        facts["DCMTK"] = re.search(r"v(\d[\d.]*)", version.stdout)[1]
    except (OSError, TypeError):
        pass
    return facts


def ratio(samples: Samples, name: str, other: str) -> float | None:
    """The median of the rounds' ratios: each from two runs next to each other."""
    if name not in samples or other not in samples:
        return None
    pairs = zip(samples[name], samples[other], strict=False)
    ratios = [one.value / two.value for one, two in pairs if two.value]
    return median(ratios) if ratios else None


def write(results: Results, run: Run, folder: Path) -> str:
    """Both files; returns the Markdown."""
    folder.mkdir(exist_ok=True)
    facts = machine()
    data = {
        "facts": facts | {"rounds": run.rounds, "seconds": run.seconds},
        "scenarios": [
            asdict(scenario)
            | {
                "errors": errors,
                "results": {
                    name: {
                        "median": median(each.value for each in several),
                        "cpu": median(each.cpu for each in several) if several[0].cpu is not None else None,
                        "ratio": {other: ratio(samples, name, other) for other in samples if other != name},
                        "runs": [asdict(each) for each in several],
                    }
                    for name, several in samples.items()
                },
            }
            for scenario, samples, errors in results
        ],
    }
    (folder / "results.json").write_text(json.dumps(data, indent=1) + "\n")
    text = markdown(results, facts, run)
    (folder / "results.md").write_text(text)
    return text


def markdown(results: Results, facts: dict[str, str], run: Run) -> str:
    """The table."""
    lines = [
        "# Measurements",
        "",
        f"Loopback, {', '.join(f'{key} {value}' if key != 'machine' else value for key, value in facts.items())}.",
        f"Medians of {run.rounds} alternating rounds of {run.seconds:g} s. Ratios are medians of the rounds' ratios.",
        "In brackets the CPU seconds of that process per GB (per 1,000 operations where the unit is 1/s).",
        "C is a program of our own that gathers each data set in a buffer; *by PDU* two system calls for each.",
        "PDUs are of 16 KiB and receivers drop what they get, unless the line says otherwise.",
        "",
    ]
    lines += _floors(results) + _receiving(results) + _sending(results) + _others(results)
    notes = [f"- {scenario.name}: {scenario.note}" for scenario, _, _ in results if scenario.note]
    failures = [f"- {scenario.name}: {name}: {why}" for scenario, _, errors in results for name, why in errors.items()]
    if notes:
        lines += ["Notes:", "", *notes, ""]
    if failures:
        lines += ["Not measured:", "", *failures, ""]
    return "\n".join(lines)


def _floors(results: Results) -> list[str]:
    """What the project promises, and what was measured."""
    found = {scenario.name: samples for scenario, samples, _ in results}
    rows = []
    for name, other, least in FLOORS:
        value = ratio(found.get(name, {}), UVLOOP, other)
        if value is not None:
            rows.append([f"{name}: ratio to {other}", f">= {least:g}", f"{value:.2f}"])
    one, many = (found.get(name, {}).get(UVLOOP) for name in (CT_ONE, CT_MANY))
    if one and many:
        value = median(each.value for each in many) / median(each.value for each in one)
        rows.append(["16 associations, ratio to one", ">= 1", f"{value:.2f}"])
    for name, most in CEILINGS:
        if UVLOOP in found.get(name, {}):
            rows.append([name, f"< {most:g}", f"{found[name][UVLOOP][0].value:.3g}"])
    value = ratio(found.get("import time", {}), "asyncdicom", "asyncio, ssl")
    if value is not None:
        rows.append(["import asyncdicom, ratio to import asyncio, ssl", "<= 1.5", f"{value:.2f}"])
    return _table(["promised", "", "measured"], rows)


def _receiving(results: Results) -> list[str]:
    rows = [
        [
            _name(scenario),
            *(_cell(samples, name) for name in COLUMNS),
            *_ratios(samples, (C, C_BY_PDU, DCMTK, PYNETDICOM)),
        ]
        for scenario, samples, _ in results
        if scenario.kind == "receive"
    ]
    head = ["receiving", *(name.replace("asyncdicom ", "") for name in COLUMNS)]
    return _table([*head, "uvloop / C", "/ C by PDU", "/ DCMTK", "/ pynetdicom"], rows)


def _sending(results: Results) -> list[str]:
    columns = (UVLOOP, ASYNCIO, C, "storescu", "dcmsend", PYNETDICOM)
    rows = [
        [_name(scenario), *(_cell(samples, name) for name in columns), *_ratios(samples, columns[2:])]
        for scenario, samples, _ in results
        if scenario.kind == "send"
    ]
    head = ["sending", *(name.replace("asyncdicom ", "") for name in columns)]
    return _table([*head, "uvloop / C", "/ storescu", "/ dcmsend", "/ pynetdicom"], rows)


def _others(results: Results) -> list[str]:
    lines = []
    for scenario, samples, _ in results:
        if scenario.kind in ("receive", "send"):
            continue
        first = next(iter(samples), None)
        more = list((samples[first][0].more or {}) if first else ())
        rows = [
            [name, _number(median(each.value for each in several)), *(f"{several[0].more[key]:g}" for key in more)]
            for name, several in samples.items()
        ]
        lines += _table([scenario.name, scenario.unit, *more], rows)
    return lines


def _name(scenario: Scenario) -> str:
    return f"{scenario.name}, {scenario.unit}"


def _cell(samples: Samples, name: str) -> str:
    if name not in samples:
        return ""
    several = samples[name]
    cpu = f" ({median(each.cpu for each in several):.2g})" if several[0].cpu is not None else ""
    return _number(median(each.value for each in several)) + cpu


def _ratios(samples: Samples, others: tuple[str, ...]) -> list[str]:
    ratios = (ratio(samples, UVLOOP, other) for other in others)
    return ["" if each is None else f"{each:.2f}" if each < 10 else f"{each:.0f}" for each in ratios]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    if not rows:
        return []
    kept = [index for index in range(len(head)) if any(row[index] for row in rows)]
    align = ["---" if index == 0 else "---:" for index in kept]
    table = [[head[index] for index in kept], align, *([row[index] for index in kept] for row in rows)]
    return [*(f"| {' | '.join(row)} |" for row in table), ""]
