"""The report of a run: its data, and the writer that alone fills it in."""

from .data import ANSWERED, FULL, KINDS, REUSE, TOKEN, CallRecord, Report, ReportHandle
