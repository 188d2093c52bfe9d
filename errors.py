"""The errors that the pack raises on purpose; each message states what was wrong and what to do."""

from __future__ import annotations


class AstraeaError(Exception):
    """Base of every error the pack raises on purpose."""


class ScheduleError(AstraeaError, ValueError):
    """A schedule, or a file that should hold one, cannot be used."""


class BudgetError(AstraeaError, ValueError):
    """A budget, target or other setting is outside its range."""


class InputError(AstraeaError, ValueError):
    """A node's input has a value that cannot work; the message names the input and what it takes."""


class UnsupportedModel(AstraeaError):
    """A model cannot be accelerated; the message is the reason."""


class UnsupportedBlocks(AstraeaError):
    """A model's blocks cannot run for selected tokens; the message is the reason. Whole steps can still be skipped.

    family: the word of the model's schedules, where it is not that of the other models in its file.
    """

    def __init__(self, reason: str, family: str = ""):
        super().__init__(reason)
        self.family = family


class SearchError(AstraeaError):
    """A search cannot start or continue."""


class WorkerError(AstraeaError, RuntimeError):
    """A process on another GPU has failed, or does not answer."""
