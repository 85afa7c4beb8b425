"""The highest version that was seen is kept, and less is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import MalformedDocumentError, RollbackError
from policies.roster import Roster
from policies.version_floor import FloorFile, VersionFloor
from tests.fakes.trust_domain import draft_roster

OLD, NEW, OTHER = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
NOTHING = VersionFloor({})


def roster(version, previous=None) -> Roster:
    return draft_roster(version=version, previous=previous)


def test_first_document_of_any_version_is_taken():
    assert NOTHING.advance("roster", roster(7, OLD), NEW).seen == {"roster": (7, NEW)}


def test_same_document_is_taken_again():
    floor = NOTHING.advance("roster", roster(1), OLD)
    assert floor.advance("roster", roster(1), OLD) == floor


def test_successor_that_names_its_predecessor_is_taken():
    floor = NOTHING.advance("roster", roster(1), OLD).advance("roster", roster(2, OLD), NEW)
    assert floor.seen == {"roster": (2, NEW)}


@pytest.mark.parametrize(
    ("document", "digest", "said"),
    [
        (roster(1), OLD, "version 2 was already seen"),
        (roster(2, OLD), OTHER, "two different documents carry version 2"),
        (roster(3, OLD), OTHER, "does not name version 2 as its predecessor"),
        (roster(3), OTHER, "does not name version 2 as its predecessor"),
    ],
)
def test_document_that_is_older_or_no_successor_is_refused(document, digest, said):
    floor = NOTHING.advance("roster", roster(2, OLD), NEW)
    with pytest.raises(RollbackError, match=said):
        floor.advance("roster", document, digest)


def test_documents_of_different_names_do_not_touch_each_other():
    floor = NOTHING.advance("grant of a", roster(9), OLD).advance("grant of b", roster(1), NEW)
    assert floor.seen == {"grant of a": (9, OLD), "grant of b": (1, NEW)}


@given(st.lists(st.tuples(st.integers(1, 4), st.sampled_from([OLD, NEW]), st.sampled_from([None, OLD, NEW]))))
def test_floor_never_sinks_whatever_is_shown(shown):
    floor = NOTHING
    for version, digest, previous in shown:
        before = floor.seen.get("roster", (0, b""))
        try:
            floor = floor.advance("roster", roster(version, previous), digest)
        except RollbackError:
            continue
        assert floor.seen["roster"] == before or floor.seen["roster"][0] > before[0]


def test_floor_is_kept_over_a_restart(tmp_path):
    file = FloorFile(tmp_path / "versions.json")
    assert file.load() == NOTHING
    floor = NOTHING.advance("roster", roster(2, OLD), NEW)
    file.save(floor)
    assert file.load() == floor


@pytest.mark.parametrize(
    "raw",
    [b"", b"{}", b'{"documents":{"roster":{"version":0,"sha256":"%b"}}}' % (b"00" * 32), b'{"documents":{},"more":1}'],
)
def test_damaged_file_is_refused_and_not_taken_for_an_empty_one(tmp_path, raw):
    file = FloorFile(tmp_path / "versions.json")
    file.path.write_bytes(raw)
    with pytest.raises(MalformedDocumentError):
        file.load()
