"""Every error of ours can travel between processes and ends in the next move."""

from __future__ import annotations

import pickle

import pytest

from mlbench.core import errors
from mlbench.core.naming import naming


@pytest.mark.parametrize("name", sorted(set(errors.__all__) - {"StepFailed", "QueryError", "NotTrusted"}))
def test_an_error_survives_pickling_with_its_facts(name: str) -> None:
    kind: type[errors.MlbenchError] = getattr(errors, name)
    error = pickle.loads(pickle.dumps(kind("The store is full.", "Free some space.")))
    assert type(error) is kind
    assert (error.message, error.remedy) == ("The store is full.", "Free some space.")
    assert str(error) == "The store is full. Free some space."


def test_a_failed_step_survives_pickling_with_its_facts() -> None:
    error = pickle.loads(pickle.dumps(errors.StepFailed("train", "failed", "ValueError: no rows", "Fix the cell.")))
    assert (error.step, error.state, error.reason) == ("train", "failed", "ValueError: no rows")
    assert str(error) == "Step train failed: ValueError: no rows Fix the cell."


def test_a_value_that_is_not_trusted_names_who_stored_it_and_both_ways_to_load_it() -> None:
    error = pickle.loads(pickle.dumps(errors.NotTrusted("model", "3f2a", "train", "ada")))
    assert (error.name, error.run, error.step, error.user) == ("model", "3f2a", "train", "ada")
    assert str(error) == (
        "`model` of step train in run 3f2a was stored by ada, and to load it runs code of theirs. If you trust that: "
        "mlbench.run('3f2a')['train'].load('model', trust=True), or `mlbench trust ada` for all that ada stores."
    )
    own = errors.NotTrusted("model", "3f2a", "train", "ada", "unsigned")
    assert "has your name on it, but it is not signed with your key" in str(own)


def test_a_query_that_cannot_be_read_survives_pickling_with_its_place() -> None:
    error = pickle.loads(pickle.dumps(errors.QueryError("stat is nothing that a run has.", "stat = 1", 0)))
    assert (error.message, error.query, error.place) == ("stat is nothing that a run has.", "stat = 1", 0)
    assert str(error) == "stat is nothing that a run has.\n  stat = 1\n  ^"


def test_a_notebook_shows_the_sentence_without_our_frames() -> None:
    error = errors.UsageError("Unknown option --timout.")
    assert error._render_traceback_() == ["UsageError: Unknown option --timout."]


def test_every_error_of_the_module_is_public_and_ours() -> None:
    found = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert found == set(errors.__all__)


def test_what_is_damaged_is_named_once_whoever_names_it_again() -> None:
    found = errors.ArtifactCorrupt.at(f"blake3:{'0' * 64}", "8 bytes that are no artifact")
    assert str(found) == (
        "An object of the store is damaged: expected blake3:00000000, got 8 bytes that are no artifact. "
        "Run what made it again, or fetch it from a copy of the store: `mlbench store verify --repair-from COPY`."
    )
    with pytest.raises(errors.ArtifactCorrupt) as caught, naming("scores", "score", "mq2a"), naming("scores[17]"):
        raise found
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.expected, error.got) == (f"blake3:{'0' * 64}", "8 bytes that are no artifact")
    assert (error.name, error.step, error.run) == ("scores[17]", "score", "mq2a")
    assert str(error) == (
        "`scores[17]` of step score in run mq2a is damaged in the store: expected blake3:00000000, got 8 bytes that "
        "are no artifact. Run step score again, or fetch it from a copy of the store: "
        "`mlbench store verify --repair-from COPY`."
    )


def test_what_is_whole_and_cannot_be_used_is_not_called_damaged() -> None:
    later = errors.ArtifactCorrupt("A value was stored in format 2.", "Update mlbench.")
    assert str(later.of("model", "train", "mq2a")) == "A value was stored in format 2. Update mlbench."
