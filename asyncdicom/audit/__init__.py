"""The audit trail: security-relevant events as audit messages (PS3.15 A.5), and where they go (A.6, A.7).

:class:`AuditTrail` is what :func:`asyncdicom.serve` and :func:`asyncdicom.connect` take as ``audit``.
"""

from .messages import AuditMessage, Outcome
from .sinks import FileSink, LogSink, Sink, SyslogSink
from .trail import AuditTrail

__all__ = ["AuditMessage", "AuditTrail", "FileSink", "LogSink", "Outcome", "Sink", "SyslogSink"]
