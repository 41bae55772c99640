"""What the project wants to hold, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from .peers import C_BY_PDU, DCMTK, ORTHANC, PYNETDICOM, STOCK, STOCK_DCMTK, STORESCU, TWO_WORKERS, UVLOOP, C

if TYPE_CHECKING:
    from .scenarios import Sample, Samples


@dataclass(frozen=True)
class Target:
    """A ratio to another in the same scenario; or, without another, a figure of ours that is not to be exceeded."""

    scenario: str
    other: str
    wanted: float
    what: str = ""
    """Of the scenario's further figures, the one that is meant; otherwise its value."""
    unit: str = ""
    mine: str = UVLOOP

    def measured(self, samples: Samples) -> str:
        """The figure; beside C, both of its ways to receive."""
        if not self.other:
            several = samples.get(self.mine, [])
            return number(median(map(self._figure, several))) if several else ""
        others = (C, C_BY_PDU) if self.other == C else (self.other,)
        ratios = {other: ratio(samples, self.mine, other) for other in others}
        return ", ".join(
            number(value) + (f" of {other}" if len(ratios) > 1 else "") for other, value in ratios.items() if value
        )

    def _figure(self, sample: Sample) -> float:
        return (sample.more or {})[self.what] if self.what else sample.value


_FILES, _SENDING, _THOUSANDS = (
    "512 KB CT to files, ",
    "sending 512 KB CT files, 1 association",
    "10,000 open associations",
)

TARGETS = (
    Target("512 KB CT, 1 association", C, 0.75),
    Target("512 KB CT, 1 association", DCMTK, 1),
    Target("512 KB CT, 1 association, 1 MiB PDUs", C, 0.9),
    Target("512 KB CT, 16 associations", C, 0.7),
    Target("512 KB CT, 16 associations", DCMTK, 1.5),
    Target("4 KB objects, 1 association", C, 0.65),
    Target("4 KB objects, 1 association", PYNETDICOM, 20),
    Target("4 KB objects, 16 associations", C, 0.18),
    Target("4 KB objects, 16 associations", PYNETDICOM, 20),
    Target("C-ECHO, 100 associations", C, 0.2),
    Target("C-ECHO, 100 associations", PYNETDICOM, 40),
    Target("C-ECHO, 100 associations", DCMTK, 1),
    Target("C-ECHO, 100 associations", ORTHANC, 1),
    Target(f"{_FILES}1 association", DCMTK, 1),
    Target(f"{_FILES}1 association", PYNETDICOM, 10),
    Target(f"{_FILES}16 associations", DCMTK, 1),
    Target(f"{_FILES}16 associations", PYNETDICOM, 10),
    Target(_SENDING, "storescu", 2),
    Target(_SENDING, "dcmsend", 1.7),
    Target(_SENDING, PYNETDICOM, 50),
    Target(_SENDING, C, 0.85),
    Target("sending 4 KB files, 1 association", "storescu", 2),
    Target("sending 4 KB files, 1 association", "dcmsend", 1.5),
    Target("C-MOVE of 1,000 CT", STORESCU, 0.8),
    Target("C-MOVE of 1,000 objects of 4 KB", STORESCU, 0.8),
    Target("C-GET of 1,000 CT", STORESCU, 0.8),
    Target("C-GET of 1,000 objects of 4 KB", STORESCU, 0.8),
    Target("stock storescu, 50 CT files", STOCK_DCMTK, 20, mine=STOCK),
    Target("stock dcmsend, 50 CT files", STOCK_DCMTK, 20, mine=STOCK),
    Target("stock pynetdicom, 50 CT files", STOCK_DCMTK, 8, mine=STOCK),
    Target("512 KB CT, an association for each of 500", C, 0.55),
    Target("512 KB CT, an association for each of 500", PYNETDICOM, 15),
    Target(_THOUSANDS, "", 10, "opened in s", "s"),
    Target(_THOUSANDS, "", 16, "", "KB each"),
    Target(_THOUSANDS, "", 2, "idle CPU %", "% of a core when idle"),
    Target(_THOUSANDS, "", 5, "C-ECHO p99 ms", "ms C-ECHO p99"),
    Target("memory added at the peak, 16 associations with a 1 GiB instance each", "", 64, "", "MB"),
    Target(f"{_FILES}16 associations", UVLOOP, 1.6, mine=TWO_WORKERS),
)


def ratio(samples: Samples, name: str, other: str) -> float | None:
    """The median of the rounds' ratios: each from two runs next to each other."""
    if name not in samples or other not in samples:
        return None
    pairs = zip(samples[name], samples[other], strict=True)
    ratios = [one.value / two.value for one, two in pairs if two.value]
    return median(ratios) if ratios else None


def number(value: float) -> str:
    """With as many digits as mean something."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
