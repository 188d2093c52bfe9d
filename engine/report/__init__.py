"""The report of a run: its data, and the writer that alone fills it in."""

from .data import FULL, KINDS, REUSE, SKIPPED, TOKEN, CallRecord, Report, ReportHandle

__all__ = ["FULL", "KINDS", "REUSE", "SKIPPED", "TOKEN", "CallRecord", "Report", "ReportHandle"]
