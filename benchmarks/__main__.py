"""Measure everything that is installed, side by side, and write ``benchmarks/results/``."""

from __future__ import annotations

import argparse
import resource
import tempfile
from dataclasses import replace
from pathlib import Path

from .processes import build_peer
from .report import write
from .scenarios import SCENARIOS, Run, measure


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds of each scenario (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one run (1)")
    parser.add_argument("--quick", action="store_true", help="3 rounds of 0.4 s")
    parser.add_argument("--only", default="", metavar="TEXT", help="scenarios with this in their name")
    parser.add_argument("--peers", default="", metavar="TEXT", help="peers with this in their name, and asyncdicom")
    parser.add_argument(
        "--folder", type=Path, help="where files are written; memory where there is a file system for it"
    )
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 3, 0.4
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(
        prefix="bench-", dir=arguments.folder or (memory if memory.is_dir() else None)
    ) as folder:
        run = Run(build_peer(Path(folder)), Path(folder), arguments.rounds, arguments.seconds)
        results = []
        for scenario in SCENARIOS:
            if arguments.only not in scenario.name:
                continue
            if arguments.peers:
                scenario = replace(  # noqa: PLW2901
                    scenario,
                    peers=tuple(name for name in scenario.peers if arguments.peers in name or "asyncdicom" in name),
                )
            print(scenario.name, end=" ", flush=True)
            samples, errors = measure(scenario, run)
            print(
                *(
                    f"{name} {sorted(s.value for s in several)[len(several) // 2]:,.1f};"
                    for name, several in samples.items()
                ),
                *errors.values(),
            )
            results.append((scenario, samples, errors))
        print()
        print(write(results, run, arguments.results))


if __name__ == "__main__":
    main()
