"""The tree agrees with the definition of RFC 6962, and no proof holds for anything but what it was made for."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.audit.merkle import EMPTY_ROOT, MerkleTree, leaf_hash, verify_consistency, verify_inclusion
from policies.errors import RecordTamperedError

# RFC 6962 test data of the certificate-transparency project: the roots over the first n of these entries.
ENTRIES = [bytes.fromhex(entry) for entry in ("", "00", "10", "2021", "3031", "40414243")]
ROOTS = {
    1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
}


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + naive_root(leaves[:k]) + naive_root(leaves[k:])).digest()


def leaves_of(count: int) -> list[bytes]:
    return [leaf_hash(number.to_bytes(4, "big")) for number in range(count)]


LEAVES = leaves_of(140)
TREE = MerkleTree(LEAVES)
sizes = st.integers(1, 140)


def test_roots_are_those_of_the_published_test_data():
    tree = MerkleTree(map(leaf_hash, ENTRIES))
    assert {size: tree.root(size).hex() for size in ROOTS} == ROOTS


def test_empty_tree_has_the_hash_of_nothing_as_root():
    assert MerkleTree().root() == EMPTY_ROOT == hashlib.sha256().digest()


def test_root_of_every_size_is_that_of_the_definition():
    assert [TREE.root(size) for size in range(141)] == [naive_root(LEAVES[:size]) for size in range(141)]


@pytest.mark.parametrize("size", range(1, 40))
def test_every_inclusion_proof_holds(size):
    for index in range(size):
        verify_inclusion(
            leaf=LEAVES[index], index=index, size=size, proof=TREE.inclusion_proof(index, size), root=TREE.root(size)
        )


@pytest.mark.parametrize("new", range(40))
def test_every_consistency_proof_holds(new):
    for old in range(new + 1):
        proof = TREE.consistency_proof(old, new)
        verify_consistency(old=old, new=new, old_root=TREE.root(old), new_root=TREE.root(new), proof=proof)


@settings(max_examples=60, deadline=None)
@given(st.data(), sizes)
def test_changed_inclusion_proof_is_refused(data, size):
    index = data.draw(st.integers(0, size - 1))
    proof = list(TREE.inclusion_proof(index, size))
    arguments = {"leaf": LEAVES[index], "index": index, "size": size, "proof": proof, "root": TREE.root(size)}
    change = data.draw(st.sampled_from(["leaf", "index", "root", "drop", "add", "flip"]))
    if change in {"leaf", "root"}:
        arguments[change] = bytes(32)
    elif change == "index":
        arguments["index"] = data.draw(st.integers(-1, size + 3).filter(lambda other: other != index))
    elif change == "drop" and proof:
        proof.pop(data.draw(st.integers(0, len(proof) - 1)))
    elif change == "flip" and proof:
        proof[data.draw(st.integers(0, len(proof) - 1))] = bytes(32)
    else:
        proof.append(bytes(32))
    with pytest.raises(RecordTamperedError):
        verify_inclusion(**arguments)


@settings(max_examples=60, deadline=None)
@given(st.data(), sizes)
def test_changed_consistency_proof_is_refused(data, new):
    old = data.draw(st.integers(1, new))
    proof = list(TREE.consistency_proof(old, new))
    arguments = {"old": old, "new": new, "old_root": TREE.root(old), "new_root": TREE.root(new), "proof": proof}
    change = data.draw(st.sampled_from(["old_root", "new_root", "drop", "add", "flip", "swap"]))
    if change in {"old_root", "new_root"}:
        arguments[change] = bytes(32)
    elif change == "swap":
        arguments["old"], arguments["new"] = new + 1, new
    elif change == "drop" and proof:
        proof.pop(data.draw(st.integers(0, len(proof) - 1)))
    elif change == "flip" and proof:
        proof[data.draw(st.integers(0, len(proof) - 1))] = bytes(32)
    else:
        proof.append(bytes(32))
    with pytest.raises(RecordTamperedError):
        verify_consistency(**arguments)


def test_consistency_with_another_beginning_is_refused():
    other = MerkleTree([bytes(32), *LEAVES[1:9]])
    with pytest.raises(RecordTamperedError):
        verify_consistency(
            old=5, new=9, old_root=TREE.root(5), new_root=other.root(9), proof=other.consistency_proof(5, 9)
        )


def test_consistency_with_nothing_known_needs_the_empty_root():
    with pytest.raises(RecordTamperedError):
        verify_consistency(old=0, new=3, old_root=bytes(32), new_root=TREE.root(3), proof=())


def test_proof_with_a_hash_of_another_length_is_refused():
    proof = [step + b"\0" for step in TREE.inclusion_proof(3, 8)]
    with pytest.raises(RecordTamperedError, match="33 bytes"):
        verify_inclusion(leaf=LEAVES[3], index=3, size=8, proof=proof, root=TREE.root(8))


@pytest.mark.parametrize(
    "ask",
    [
        lambda tree: tree.root(141),
        lambda tree: tree.root(-1),
        lambda tree: tree.inclusion_proof(5, 5),
        lambda tree: tree.inclusion_proof(5, 141),
        lambda tree: tree.consistency_proof(5, 4),
        lambda tree: tree.consistency_proof(5, 141),
    ],
)
def test_what_is_outside_the_tree_is_refused(ask):
    with pytest.raises(ValueError, match=r"140|asked|proof"):
        ask(TREE)


def test_proof_that_is_too_long_is_refused():
    with pytest.raises(RecordTamperedError, match="longer"):
        verify_inclusion(leaf=LEAVES[0], index=0, size=1, proof=[bytes(32)], root=TREE.root(1))
    proof = [*TREE.consistency_proof(3, 5), bytes(32)]
    with pytest.raises(RecordTamperedError, match="longer"):
        verify_consistency(old=3, new=5, old_root=TREE.root(3), new_root=TREE.root(5), proof=proof)


def test_proof_that_stops_below_the_root_is_refused():
    with pytest.raises(RecordTamperedError):
        verify_inclusion(leaf=TREE.root(2), index=0, size=2, proof=(), root=TREE.root(2))
    with pytest.raises(RecordTamperedError):
        verify_consistency(old=1, new=2, old_root=TREE.root(2), new_root=TREE.root(2), proof=())
