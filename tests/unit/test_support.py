"""docs/models.md says what the tests saw."""

from support import DOCUMENT, filled, read_outcomes, tables


def test_the_document_is_written_from_the_outcomes():
    outcomes = read_outcomes()
    assert len(outcomes) == 3
    text = DOCUMENT.read_text("utf-8")
    assert tables(outcomes) in text
    assert filled(text, outcomes) == text


def test_at_least_45_models_of_the_newest_host():
    newest = list(read_outcomes().values())[-1]
    assert sum(each["steps"] in ("token", "whole") for each in newest.values()) >= 45
    assert all(each["why"] for each in newest.values() if each["steps"] in ("full", "whole"))
