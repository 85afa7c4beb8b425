"""What is written as TOML is read back by the standard library as it was meant."""

import tomllib
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from provisioning.toml import toml_text

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
SCALAR = TEXT | st.integers(-(2**62), 2**62)
PLAIN = st.dictionaries(TEXT, SCALAR, max_size=5)


@settings(max_examples=150)
@given(PLAIN, st.dictionaries(TEXT, PLAIN, max_size=3))
def test_any_keys_and_values_survive(values, tables):
    merged = {**values, **tables}
    assert tomllib.loads(toml_text("heading", merged)) == merged


def test_heading_is_a_comment_on_every_line():
    assert toml_text("one\ntwo", {"a": 1}) == "# one\n# two\na = 1\n"


def test_plain_keys_stand_before_tables_and_paths_are_text():
    text = toml_text("x", {"table": {"in.ner": "y"}, "path": Path("/a b")})
    assert text == '# x\npath = "/a b"\n\n[table]\n"in.ner" = "y"\n'
