"""What came of sending: the counts and the names of what went wrong, in words or as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import NamedTuple

from .exit_codes import ExitCode, Failure

__all__ = ["Problem", "Summary", "megabytes"]


class Problem(NamedTuple):
    """A file that was not sent, or of which the peer had something to say."""

    path: str
    reason: str
    status: str = ""
    """The response's status in hexadecimal; empty when there was no response."""
    sop_instance_uid: str = ""


@dataclass(slots=True)
class Outcome:
    """What a run with instances has come to."""

    bytes: int = 0
    """Of the data sets that have arrived."""
    seconds: float = 0.0
    failure: Failure | None = None
    """The first of what makes the run a failure."""

    def fail(self, failure: Failure) -> None:
        """Note a failure; the first one gives the exit code."""
        if self.failure is None:
            self.failure = failure

    @property
    def exit_code(self) -> ExitCode:
        """The tool's."""
        return self.failure.code if self.failure else ExitCode.OK


@dataclass(slots=True)
class Summary(Outcome):
    """What a run of storescu did."""

    sent: int = 0
    """Instances that the peer has, those with a warning among them."""
    warnings: list[Problem] = field(default_factory=list)
    failed: list[Problem] = field(default_factory=list)
    skipped: list[Problem] = field(default_factory=list)
    """Files that are no valid instances."""
    not_sent: int = 0
    """Instances that were not tried."""
    associations: int = 0

    def text(self) -> str:
        """In one line."""
        parts = [f"{self.sent} sent"]
        for count, words in (
            (len(self.warnings), "with warning"),
            (len(self.failed), "failed"),
            (len(self.skipped), "skipped"),
            (self.not_sent, "not tried"),
        ):
            if count:
                parts.append(f"{count} {words}")
        return f"{', '.join(parts)}; {megabytes(self.bytes)} in {self.seconds:.2f} s ({self._rate():.1f} MB/s)"

    def json(self) -> str:
        """As one JSON object."""
        lists = {
            name: [problem._asdict() for problem in getattr(self, name)] for name in ("warnings", "failed", "skipped")
        }
        return json.dumps(
            {
                "sent": self.sent,
                **lists,
                "not_sent": self.not_sent,
                "bytes": self.bytes,
                "seconds": round(self.seconds, 6),
                "mb_per_second": round(self._rate(), 3),
                "associations": self.associations,
                "error": self.failure.message if self.failure else None,
                "exit_code": int(self.exit_code),
            }
        )

    def problems(self) -> list[str]:
        """A line for each file that was not sent or warned of."""
        return [
            f"{word} {problem.path}: {problem.reason}"
            for word, problems in (("skipped", self.skipped), ("warning", self.warnings), ("failed", self.failed))
            for problem in problems
        ]

    def _rate(self) -> float:
        return self.bytes / 1e6 / self.seconds if self.seconds else 0.0


def megabytes(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e6:.1f} MB"
