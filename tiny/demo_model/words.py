"""Vocabulary of the demo model, and prompts in it."""

from __future__ import annotations

PLACES = ("mountains", "hills", "lake", "sea")
TIMES = ("dawn", "noon", "sunset", "night")
BALLOONS = {
    "red": (0.88, 0.16, 0.14),
    "orange": (0.97, 0.52, 0.10),
    "yellow": (0.97, 0.82, 0.18),
    "green": (0.14, 0.60, 0.32),
    "blue": (0.16, 0.36, 0.84),
    "purple": (0.52, 0.22, 0.68),
}
SAILS = {"white": (0.97, 0.96, 0.92), "red": (0.86, 0.20, 0.16), "yellow": (0.96, 0.78, 0.22)}
SUBJECTS = ("balloon drifting", "boat sailing")
DIRECTIONS = ("left", "right")
CONNECTIVES = ("a", "an", "the", "over", "on", "at", "under northern lights")
GROUPS = (SUBJECTS, tuple(dict.fromkeys((*BALLOONS, *SAILS))), DIRECTIONS, PLACES, TIMES, CONNECTIVES)
VOCABULARY = frozenset(word for group in GROUPS for phrase in group for word in phrase.split())
PROMPTS = (
    "a white boat sailing right on a lake at night under northern lights",
    "a red balloon drifting left over mountains at sunset",
    "an orange balloon drifting right over hills at dawn",
    "a red boat sailing left on the sea at sunset",
    "a blue balloon drifting right over a lake at noon",
    "a green balloon drifting left over mountains at night under northern lights",
    "a yellow boat sailing right on a lake at dawn",
    "a purple balloon drifting left over the sea at night",
)
