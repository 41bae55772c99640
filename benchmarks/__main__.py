"""Measure everything that is installed, side by side, and write ``benchmarks/results/`` and a section of the README."""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from .plots import FOR_README, plot
from .processes import build_peer, file_system
from .report import Results, load, machine, markdown, readme_section, save, write_readme
from .scenarios import SCENARIOS, Run, measure
from .targets import number

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds of each scenario (5)")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one run (0.5)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 0.3 s, and less of what is large")
    parser.add_argument("--only", default="", metavar="TEXT", help="scenarios with this in their name")
    parser.add_argument("--peers", default="", metavar="TEXT", help="peers with this in their name, and asyncdicom")
    parser.add_argument("--folder", type=Path, help="for files; memory where there is a file system for it")
    parser.add_argument("--disk", type=Path, help="for files with fsync and for large ones (the temporary folder)")
    parser.add_argument(
        "--results",
        type=Path,
        help="where the results go; without it those of a whole run go to benchmarks/results and into the README, "
        "those of any other to a temporary folder",
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="with --only: put what is measured in place of what the results have of it",
    )
    parser.add_argument(
        "--render", action="store_true", help="measure nothing: write everything anew from results.json"
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends the peers and removes the files
    is_whole = not (arguments.quick or arguments.only or arguments.peers)
    if arguments.quick:
        arguments.rounds, arguments.seconds = 2, 0.3
    own = HERE / "results"
    is_whole = is_whole or arguments.replace or arguments.render
    folder = arguments.results or (own if is_whole else Path(tempfile.mkdtemp(prefix="bench-results-")))
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.render:
        results = load(folder / "results.json")
    else:
        results = run_all(arguments)
        if arguments.replace:
            results = load(folder / "results.json").replaced(results)
        save(results, folder / "results.json")
    text = markdown(results, plot(results, folder))
    (folder / "results.md").write_text(text)
    print(f"\n{text}\n{folder}")
    if folder.resolve() == own.resolve() and is_whole:
        write_readme(readme_section(results, f"benchmarks/results/{FOR_README}"), HERE.parent / "README.md")


def run_all(arguments: argparse.Namespace) -> Results:
    """Measure what was asked for, and say how it goes."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
    memory = Path("/dev/shm")
    chosen = [scenario for scenario in SCENARIOS if arguments.only in scenario.name]
    with ExitStack() as stack:
        folder, disk = (
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=where)))
            for where in (arguments.folder or (memory if memory.is_dir() else None), arguments.disk or _disk())
        )
        run = Run(*build_peer(folder), folder, disk, arguments.rounds, arguments.seconds, arguments.quick)
        results = Results(machine(run), [])
        for index, scenario in enumerate(chosen, 1):
            if arguments.peers:
                names = tuple(name for name in scenario.peers if arguments.peers in name or "asyncdicom" in name)
                scenario = replace(scenario, peers=names)  # noqa: PLW2901
            print(f"{index}/{len(chosen)} {scenario.name}, {scenario.unit}:", end=" ", flush=True)
            start = time.monotonic()
            samples, errors = measure(scenario, run)
            medians = (
                f"{name} {number(sorted(s.value for s in runs)[len(runs) // 2])}" for name, runs in samples.items()
            )
            failures = (f"{name} not measured: {why}" for name, why in errors.items())
            print("; ".join((*medians, *failures)), f"[{time.monotonic() - start:.0f} s]", flush=True)
            results.scenarios.append((scenario, samples, errors))
    return results


def _disk() -> Path | None:
    """A folder that is not in memory: the temporary one, or the one that we are in."""
    return Path() if file_system(Path(tempfile.gettempdir())).startswith("tmpfs") else None


if __name__ == "__main__":
    main()
