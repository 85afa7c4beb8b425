"""The report stands alone, holds what was shown, and nothing in it can break out of its place."""

from __future__ import annotations

from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_runtime.demo.charts import Edge, Mark, Place, Series, line_chart, timeline, trust_map
from fl_runtime.demo.ground import AttackOutcome
from fl_runtime.demo.markup import element
from fl_runtime.demo.report import edges_of, released_to, render, write_report
from fl_runtime.demo.summary import Audited
from tests.fakes.demo import SITES, audited, outcome

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
VOID = {"meta", "br", "hr"}


class Reader(HTMLParser):
    """Reads a page strictly: every element closes, and where it was opened."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text.append(data)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    return audited(tmp_path_factory.mktemp("demo") / "lab")


def page(record: Audited, **changes: object) -> Reader:
    return Reader(render(outcome(audit=record, **changes), folder=Path("runs/demo"), now=NOW))


def test_report_needs_nothing_else(record: Audited) -> None:
    read = page(record)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(read.tags)
    assert not [value for name, value in read.attributes if name in {"src", "href", "xlink:href", "action"}]
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in read.attributes


def test_report_shows_what_the_demonstration_has_shown(record: Audited) -> None:
    text = " ".join(page(record).text)
    for shown in (
        "Mock TEE",
        "k = 1",
        "0.970",
        "0.980",
        "2 of 2",
        "replayed evidence",
        "the challenge was used before",
        "site-d",
        "650 samples",
        "1.2 MB",
        "digits-1a2b3c4d",
        f"The story: {record.records} records",
    ):
        assert shown in text


def test_every_point_of_every_site_is_in_the_chart(record: Audited) -> None:
    text = page(record).text
    for site in SITES:
        assert any(part.startswith(f"{site}, round 2: 0.9") for part in text)


def test_text_of_others_cannot_become_an_element(record: Audited) -> None:
    evil = '"><script>alert(1)</script><img src=x onerror=y>&amp;'
    attack = AttackOutcome(name=evil, refused=False, reason=evil)
    read = page(record, attacks=(attack,), job_id=evil)
    assert "script" not in read.tags
    assert "img" not in read.tags
    assert evil in read.text


def test_attack_that_was_not_refused_stands_out(record: Audited) -> None:
    text = page(record, attacks=(AttackOutcome(name="debug guest", refused=False, reason="was accepted"),)).text
    assert "NOT REFUSED" in text
    assert any("Not as it must be" in part for part in text)


def test_report_of_a_record_that_does_not_verify_says_so() -> None:
    broken = Audited(verified=False, reason="log server is torn", verification=None)
    assert any("The record does not verify: log server is torn" in part for part in page(broken).text)


def test_report_without_attacks_or_rounds_is_whole(record: Audited) -> None:
    assert "NOT REFUSED" not in page(record, attacks=(), rounds=()).text


def test_written_report_is_the_rendered_one(record: Audited, tmp_path: Path) -> None:
    write_report(outcome(audit=record), tmp_path / "report.html", now=NOW)
    assert Reader((tmp_path / "report.html").read_text()).tags


def test_edges_are_who_appraised_whom(record: Audited) -> None:
    assert record.verification is not None
    edges = edges_of(record.verification.records)
    assert {edge.appraiser for edge in edges} >= {"service"}
    assert all(edge.times > 0 for edge in edges)
    assert released_to(record.verification.records)


def test_map_draws_refusals_differently_and_leaves_strangers_out() -> None:
    places = {"service": Place(100, 40, "", "s0"), "a": Place(100, 200, "", "s1")}
    edges = (
        Edge("service", "a", 1, refused=False),
        Edge("service", "a", 2, refused=True),
        Edge("service", "x", 1, False),
    )
    read = Reader(str(trust_map(places, edges)))
    assert [value for name, value in read.attributes if name == "class" and str(value).startswith("edge")] == [
        "edge trusts",
        "edge refuses",
    ]
    assert "service refused a, 2 times" in read.text


def test_line_chart_of_one_step_and_of_gaps_is_drawn() -> None:
    read = Reader(str(line_chart([Series("a", [0.5], "s1"), Series("b", [None], "s2")], label="x", step="round")))
    assert read.tags.count("circle") == 1


def test_timeline_puts_refusals_on_top() -> None:
    marks = [Mark("server", 0.0, "no", refused=True), Mark("site", 2.0, "yes", refused=False)]
    read = Reader(str(timeline(marks, lanes=("server", "site"))))
    assert [value for name, value in read.attributes if name == "class" and str(value).startswith("mark")] == [
        "mark happened",
        "mark refused",
    ]


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=50)
def test_text_and_attributes_come_back_as_they_were(text: str, attribute: str) -> None:
    clean = text.replace("\r", "").replace("\x00", "")
    value = attribute.replace("\r", "").replace("\x00", "")
    read = Reader(str(element("p", clean, title=value)))
    assert "".join(read.text) == clean
    assert read.attributes == [("title", value)]
