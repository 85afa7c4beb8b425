"""Which nodes there are."""

import pytest
from pydantic import ValidationError

from policies.errors import DeniedError
from policies.roster import Member, Roster
from tests.fakes.trust_domain import NODES, draft_roster


def test_member_is_found_by_its_name():
    assert draft_roster().member("hospital-a") == NODES["hospital-a"]


def test_node_that_is_not_in_the_roster_is_refused():
    with pytest.raises(DeniedError, match="hospital-z is not in roster version 1"):
        draft_roster().member("hospital-z")


def test_sites_are_the_members_that_are_sites():
    assert set(draft_roster().sites) == {"hospital-a", "hospital-b"}


@pytest.mark.parametrize(
    "member", [{"organisation": "north", "role": "admin", "tier": "attested"}, {"role": "site", "tier": "attested"}]
)
def test_member_of_an_unknown_role_or_of_nobody_cannot_be_named(member):
    with pytest.raises(ValidationError):
        Member(**member)


@pytest.mark.parametrize("count", [0, 10_001])
def test_roster_of_nobody_or_of_too_many_cannot_be_made(count):
    with pytest.raises(ValidationError, match="nodes"):
        draft_roster(nodes={f"site-{number}": NODES["hospital-a"] for number in range(count)})


def test_roster_travels_unchanged():
    assert Roster.parse(draft_roster().encode()) == draft_roster()
