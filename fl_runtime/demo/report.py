"""`report.html`: one file that needs nothing else, made from the events of the job and the verified record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path

from fl_runtime.demo.charts import Edge, Mark, Place, Series, bars, legend, line_chart, timeline, trust_map
from fl_runtime.demo.job import METRIC
from fl_runtime.demo.markup import Child, Markup, element, join
from fl_runtime.demo.screen import load_lines
from fl_runtime.demo.style import STYLE
from fl_runtime.demo.summary import Outcome
from fl_runtime.jobs.narrate import size_in_words
from policies.audit import Record, narrate
from policies.audit.story import in_order
from policies.files import write_atomically
from provisioning.layout import SERVER, SERVICE_LOG

APPRAISALS = frozenset({"attestation.decision", "server.appraise", "peer.appraise"})
COLOURS = 4  # of the style sheet; sites beyond them begin again


def write_report(outcome: Outcome, path: Path, *, now: datetime) -> None:
    """Write the report."""
    write_atomically(path, render(outcome, folder=path.parent, now=now).encode(), mode=0o644)


def render(outcome: Outcome, *, folder: Path, now: datetime) -> str:
    """Return the whole page."""
    records = tuple(in_order(outcome.audit.verification.records)) if outcome.audit.verification else ()
    body = element(
        "main",
        _heading(outcome, now=now),
        _tiles(outcome),
        _section("Accuracy by round and site", *_accuracy(outcome)),
        _section("Federated, centralised, alone", *_comparison(outcome)),
        _section("Who attested to whom", *_trust(outcome, records)),
        _section("Data at each site", *_data(outcome)),
        *([_section("Attacks", _attacks(outcome))] if outcome.attacks else []),
        _section("Record", *_record(outcome, records)),
        _section("Rounds and timing", *_timing(outcome)),
        _section("The model", element("pre", "\n".join(load_lines(folder)))),
    )
    head = join(
        (
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            # Nothing is fetched, nothing runs: also not what somebody might have smuggled into a record.
            element(
                "meta",
                http_equiv="Content-Security-Policy",
                content="default-src 'none'; style-src 'unsafe-inline'",
            ),
            element("title", "Cloister demonstration"),
            element("style", Markup(STYLE)),
        )
    )
    return f"<!doctype html>\n{element('html', element('head', head), element('body', body), lang='en')}\n"


# --- the top ---------------------------------------------------------------------------------------------------------


def _heading(outcome: Outcome, *, now: datetime) -> Markup:
    organisations = len(set(outcome.sites.values()))
    told = f"Job {outcome.job_id}, seed {outcome.seed}, {now:%Y-%m-%d %H:%M} UTC"
    failure = [element("p", f"Not as it must be: {outcome.failure}", class_="banner bad")] if outcome.failure else []
    return element(
        "header",
        element("h1", "Cloister demonstration"),
        element("p", f"{len(outcome.sites)} sites of {organisations} organisations trained together. {told}."),
        element(
            "p",
            "Mock TEE: nothing here is attested by hardware. The evidence has the vendors' formats and was verified by "
            "the production code, under roots made on this machine. k = 1: one organisation's signature founded this "
            "laboratory; a federation asks for more of them.",
            class_="banner",
        ),
        *failure,
    )


def _tiles(outcome: Outcome) -> Markup:
    scores, audit = outcome.scores, outcome.audit
    refused = sum(attack.refused for attack in outcome.attacks)
    tiles = [
        ("federated", f"{scores.federated:.3f}", "good"),
        ("centralised", f"{scores.centralised:.3f}", ""),
        ("best site alone", f"{scores.best_alone:.3f}", ""),
        (
            "attacks refused",
            f"{refused} of {len(outcome.attacks)}" if outcome.attacks else "not tried",
            "good" if refused == len(outcome.attacks) else "bad",
        ),
        ("records verified" if audit.verified else "record", f"{audit.records}" if audit.verified else "broken",
         "good" if audit.verified else "bad"),
        ("wall time", f"{outcome.seconds:.1f} s", ""),
    ]  # fmt: skip
    return element(
        "div",
        *(element("div", element("b", value, class_=style), element("span", name)) for name, value, style in tiles),
        class_="tiles",
    )


# --- training --------------------------------------------------------------------------------------------------------


def _accuracy(outcome: Outcome) -> Iterator[Child]:
    styles = _styles(outcome)
    series = [
        Series(site, [done.metric.get(site) for done in outcome.rounds], styles[site]) for site in sorted(outcome.sites)
    ]
    series.append(Series("mean of the sites", [done.mean for done in outcome.rounds], "mean"))
    if outcome.rounds:
        yield legend(series)
        yield line_chart(series, label=f"{METRIC} by round and site", step="round")
    yield _note(
        "Each site scores the model that a round begins with on samples of its own that it does not train on; round 1 "
        "begins with the untrained model. Sites return this number because their policies name it."
    )
    head = ("round", *sorted(outcome.sites), "mean")
    rows = [
        (str(done.number), *(_number(done.metric.get(site)) for site in sorted(outcome.sites)), f"{done.mean:.3f}")
        for done in outcome.rounds
    ]
    yield _folded("As a table", _table(head, rows))


def _comparison(outcome: Outcome) -> Iterator[Child]:
    scores = outcome.scores
    values = {"federated": scores.federated, "centralised": scores.centralised}
    values |= {f"{site} alone": score for site, score in scores.alone.items()}
    styles = {f"{site} alone": style for site, style in _styles(outcome).items()} | {"federated": "mean"}
    yield bars({name: round(value, 3) for name, value in values.items()}, unit="", styles=styles)
    yield _note(
        f"{METRIC.capitalize()} on the same {outcome.samples.get('test', 0)} held-out samples, which no site has; the same "
        "initial model, seed and number of epochs."
    )


def _data(outcome: Outcome) -> Iterator[Child]:
    sizes = {site: float(outcome.samples.get(site, 0)) for site in sorted(outcome.sites)}
    yield bars(sizes, unit="samples", styles=_styles(outcome))
    yield _note("Data never left its site; the weights of the mean are these numbers, and only their sum was seen.")


def _timing(outcome: Outcome) -> Iterator[Child]:
    head = ("round", "sites", "up", "down", "seconds", "remark")
    rows = [
        (
            f"{done.number} of {done.rounds}",
            ", ".join(done.sites),
            size_in_words(done.bytes_up),
            size_in_words(done.bytes_down),
            f"{done.seconds:.2f}",
            done.remark,
        )
        for done in outcome.rounds
    ]
    yield _table(head, rows)
    ends = list(outcome.phases.items())
    lasted = {
        name: round(end - before, 2) for (name, end), before in zip(ends, (0.0, *outcome.phases.values()), strict=False)
    }
    yield element("h3", "Seconds until each phase had ended, from the one before")
    yield bars(lasted, unit="s", styles={})


# --- trust -----------------------------------------------------------------------------------------------------------


def edges_of(records: Sequence[Record]) -> tuple[Edge, ...]:
    """Say who appraised whose evidence, how often, and with which result."""
    counted = Counter(
        (record.log, record.object, record.decision == "deny") for record in records if record.action in APPRAISALS
    )
    return tuple(Edge(log, node, times, refused) for (log, node, refused), times in sorted(counted.items()))


def released_to(records: Sequence[Record]) -> frozenset[str]:
    """Name the nodes that the service has released a job's key to."""
    return frozenset(
        record.object.rpartition(" to ")[2]
        for record in records
        if record.action == "key.release" and record.decision == "allow"
    )


def _trust(outcome: Outcome, records: Sequence[Record]) -> Iterator[Child]:
    keyed = released_to(records)
    styles = _styles(outcome)

    def caption(name: str, role: str) -> str:
        return f"{role} · has the key" if name in keyed else role

    places = {
        SERVICE_LOG: Place(200, 40, "attestation service", "s0"),
        SERVER: Place(520, 104, caption(SERVER, "server"), "s0"),
    }
    gap = 720 / len(outcome.sites)
    for index, site in enumerate(sorted(outcome.sites)):
        places[site] = Place(gap * (index + 0.5), 280, caption(site, outcome.sites[site]), styles[site])
    edges = edges_of(records)
    yield trust_map(places, edges)
    yield _note(
        "An arrow goes from whoever verified and appraised evidence to the machine that gave it; a dashed one was refused. "
        "Sites verify the server and each other themselves and do not take the service's word for it."
    )
    rows = [
        (edge.appraiser, edge.appraised, "refused" if edge.refused else "trusts", str(edge.times)) for edge in edges
    ]
    yield _folded("As a table", _table(("appraiser", "appraised", "result", "times"), rows))


def _attacks(outcome: Outcome) -> Markup:
    rows = [
        (
            attack.name,
            element("span", "refused" if attack.refused else "NOT REFUSED", class_="good" if attack.refused else "bad"),
            attack.reason,
        )
        for attack in outcome.attacks
    ]
    return _table(("attack", "", "what refused it, in its own words"), rows)


def _record(outcome: Outcome, records: Sequence[Record]) -> Iterator[Child]:
    verification = outcome.audit.verification
    if verification is None:
        yield element("p", f"The record does not verify: {outcome.audit.reason}", class_="banner bad")
        return
    head = ("log", "records", "checkpoints", "cosignatures", "state")
    yield _table(
        head,
        [
            (
                log.name,
                str(len(log.records)),
                str(log.checkpoints),
                str(log.cosignatures),
                "closed" if log.closed else f"open, {log.unsigned} not yet signed",
            )
            for log in verification.logs
        ],
    )
    yield _note("Every byte of these logs is vouched for. Verify it yourself, offline: cloister audit verify audit")
    sentences = narrate(records)
    denied = sum(record.decision == "deny" for record in records)
    first = records[0].time
    yield element("h3", "What was recorded, when: refusals in red")
    yield timeline(
        [
            Mark(record.log, (record.time - first).total_seconds(), sentence, record.decision == "deny")
            for record, sentence in zip(records, sentences, strict=True)
        ],
        lanes=[log.name for log in verification.logs],
    )
    lines = [
        element("li", sentence, class_="bad" if record.decision == "deny" else "")
        for record, sentence in zip(records, sentences, strict=True)
    ]
    yield _folded(f"The story: {len(records)} records, {denied} refusals", element("ol", *lines, class_="story"))


# --- parts -----------------------------------------------------------------------------------------------------------


def _styles(outcome: Outcome) -> Mapping[str, str]:
    return {site: f"s{index % COLOURS + 1}" for index, site in enumerate(sorted(outcome.sites))}


def _section(title: str, *children: Child) -> Markup:
    return element("section", element("h2", title), *children)


def _note(text: str) -> Markup:
    return element("p", text, class_="note")


def _folded(title: str, content: Markup) -> Markup:
    return element("details", element("summary", title), content)


def _table(head: Sequence[str], rows: Sequence[Sequence[Child]]) -> Markup:
    return element(
        "div",
        element(
            "table",
            element("thead", element("tr", *(element("th", name) for name in head))),
            element("tbody", *(element("tr", *(element("td", cell) for cell in row)) for row in rows)),
        ),
        class_="scroll",
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
