"""What a person sees: the same lines with and without a terminal, and nothing that others wrote steers it."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from fl_runtime.demo.ground import AttackOutcome
from fl_runtime.demo.screen import Screen
from fl_runtime.demo.summary import Audited
from tests.fakes.demo import SITES, audited, outcome, round_done


def screen(*, terminal: bool = False) -> tuple[Screen, io.StringIO]:
    out = io.StringIO()
    return Screen(Console(file=out, force_terminal=terminal, width=100, highlight=False)), out


def test_header_says_that_nothing_is_attested_by_hardware_and_that_k_is_one() -> None:
    shown, out = screen()
    shown.header(sites=SITES)
    assert "Cloister demo: 1 server, 4 sites of 4 organisations" in out.getvalue()
    assert "mock TEE (nothing here is attested by hardware)" in out.getvalue()
    assert "k = 1" in out.getvalue()


def test_round_is_one_line_with_sites_metric_bytes_attestation_and_time() -> None:
    shown, out = screen()
    shown.round(round_done(2, mean=0.71), sites=4, attested=4)
    (line,) = out.getvalue().splitlines()
    assert " ".join(line.split()) == "round 2/2 ▇▇▇▇▇ 4/4 sites accuracy 0.71 1.2 MB up attested 4/4 0.9 s"


def test_bar_of_a_round_grows() -> None:
    shown, out = screen()
    shown.round(round_done(1), sites=4, attested=4)
    assert "▇▇▁▁▁" in out.getvalue()


def test_remark_about_missing_sites_is_in_the_round() -> None:
    shown, out = screen()
    shown.round(round_done(remark="site-c: it left"), sites=4, attested=3)
    assert "(site-c: it left)" in out.getvalue()
    assert "attested 3/4" in out.getvalue()


def test_without_a_terminal_there_are_no_control_codes_and_no_motion() -> None:
    shown, out = screen()
    with shown.live():
        shown.now("this is not shown")
        shown.header(sites=SITES)
    shown.round(round_done(), sites=4, attested=4)
    shown.attacks(outcome().attacks)
    shown.scores(outcome())
    shown.end(outcome(), folder=Path("runs/demo"))
    assert "\x1b" not in out.getvalue()
    assert "this is not shown" not in out.getvalue()


def test_on_a_terminal_what_is_waited_for_is_shown() -> None:
    shown, out = screen(terminal=True)
    with shown.live():
        shown.now("the mock TEE starts")
    shown.now("too late")
    assert "the mock TEE starts" in out.getvalue()
    assert "too late" not in out.getvalue()


def test_text_of_others_is_neither_markup_nor_control() -> None:
    shown, out = screen()
    evil = AttackOutcome(name="[bold]debug[/bold]", refused=False, reason="\x1b[2J[link=x]gone\nforged line")
    shown.attacks((evil,))
    assert "NOT REFUSED" in out.getvalue()
    assert "[bold]debug[/bold]" in out.getvalue()
    assert "\x1b" not in out.getvalue()
    assert len(out.getvalue().splitlines()) == 1


def test_every_attack_is_in_the_table_of_a_terminal() -> None:
    shown, out = screen(terminal=True)
    shown.attacks(outcome().attacks)
    for attack in outcome().attacks:
        assert attack.name in out.getvalue()
        assert attack.reason in out.getvalue()


def test_end_says_what_was_refused_and_verified_where_the_model_is_and_what_is_next(tmp_path: Path) -> None:
    shown, out = screen()
    made = outcome(audit=audited(tmp_path / "lab"))
    shown.end(made, folder=Path("runs/demo"))
    text = out.getvalue()
    assert "attacks refused: 2 of 2 (runs/demo/report.html)" in text
    assert f"record verified: {made.audit.records} entries, 4 witnesses" in text
    assert 'weights = load_file("runs/demo/model.safetensors")' in text
    assert text.rstrip().endswith("next: cloister audit show runs/demo/audit")


def test_end_does_not_call_a_broken_record_verified() -> None:
    shown, out = screen()
    shown.end(outcome(audit=Audited(verified=False, reason="torn", verification=None)), folder=Path("runs/demo"))
    assert "record NOT verified" in out.getvalue()
    assert "record verified" not in out.getvalue()


def test_scores_compare_on_one_line() -> None:
    shown, out = screen()
    shown.scores(outcome())
    assert "federated 0.97   centralised 0.98   best site alone 0.91" in out.getvalue()


def test_remark_is_one_harmless_line() -> None:
    shown, out = screen()
    shown.remark("waiting for site-b\nforged \x1b[2J")
    assert out.getvalue() == "  waiting for site-b forged \\x1b[2J\n"
