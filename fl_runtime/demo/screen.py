"""What a person sees while the demonstration runs, and at its end. In a pipe: the same lines, without colour or motion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich import box
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from fl_runtime.demo.ground import AttackOutcome
from fl_runtime.demo.job import METRIC, RoundDone
from fl_runtime.demo.summary import Outcome
from fl_runtime.jobs.narrate import one_line, size_in_words

GAP = "   "
BAR = 5  # characters


class Screen:
    """Writes to one console. Everything is text, never markup: some of it was written by programs that may lie."""

    def __init__(self, console: Console) -> None:
        """Write to `console`."""
        self._console = console
        self._status: Status | None = None

    @contextmanager
    def live(self) -> Iterator[None]:
        """Show what is being waited for, on a terminal, while the block runs."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status("", spinner="dots") as status:
            self._status = status
            try:
                yield
            finally:
                self._status = None

    def now(self, what: str) -> None:
        """Say what is being waited for; gone when the next is said."""
        if self._status is not None:
            self._status.update(Text(one_line(what), style="dim"))

    def header(self, *, sites: Mapping[str, str]) -> None:
        """Say what this is, and what it is not."""
        organisations = len(set(sites.values()))
        self._line(
            ("Cloister demo: ", "bold"),
            f"1 server, {len(sites)} sites of {organisations} organisations, ",
            ("mock TEE (nothing here is attested by hardware)", "yellow"),
        )
        self._line(("  k = 1: one signature founds this laboratory; a federation asks for more of them", "dim"))

    def ready(self, *, server: str, sites: int, of: int, keys: int) -> None:
        """Say who was admitted, and whom the job's key was released to."""
        self._facts(
            "attestation service ready",
            f"server admitted: {server}",
            f"sites admitted: {sites} of {of}",
            f"job key released to {keys}",
        )

    def round(self, done: RoundDone, *, sites: int, attested: int) -> None:
        """Tell of one round."""
        full = round(BAR * done.number / done.rounds)
        size = size_in_words(done.bytes_up)
        self._line(
            f"  round {done.number}/{done.rounds}",
            GAP,
            ("▇" * full, "green"),
            ("▁" * (BAR - full), "dim"),
            GAP,
            f"{len(done.sites)}/{sites} sites",
            GAP,
            (f"{METRIC} {done.mean:.2f}", "bold"),
            f"{GAP}{size:>8} up{GAP}attested {attested}/{sites}{GAP}{done.seconds:.1f} s",
            (f"{GAP}({one_line(done.remark)})" if done.remark else "", "yellow"),
        )

    def remark(self, text: str) -> None:
        """Tell of something that a person should know, such as what the job waits for."""
        self._line((f"  {one_line(text)}", "yellow"))

    def scores(self, outcome: Outcome) -> None:
        """Compare the federation with what it competes with."""
        scores = outcome.scores
        self._facts(
            f"federated {scores.federated:.2f}",
            f"centralised {scores.centralised:.2f}",
            f"best site alone {scores.best_alone:.2f}",
        )
        alone = GAP.join(f"{site} {value:.2f}" for site, value in scores.alone.items())
        self._line((f"  alone: {alone}   (all on {outcome.samples['test']} held-out pictures)", "dim"))

    def attacks(self, attacks: Sequence[AttackOutcome]) -> None:
        """Show how each attack ended."""
        if not attacks:
            return
        if not self._console.is_terminal:
            width = max(len(attack.name) for attack in attacks)
            for attack in attacks:
                verdict = "refused    " if attack.refused else "NOT REFUSED"
                self._line(f"  {verdict}{GAP}{one_line(attack.name):<{width}}{GAP}{one_line(attack.reason)}")
            return
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
        table.add_column("attack", ratio=3)
        table.add_column("", no_wrap=True)
        table.add_column("what refused it, in its own words", ratio=7, style="dim")
        for attack in attacks:
            verdict_text = Text("refused", "green") if attack.refused else Text("NOT REFUSED", "bold red")
            table.add_row(Text(one_line(attack.name)), verdict_text, Text(one_line(attack.reason)))
        self._console.print()
        self._console.print(table)
        self._console.print()

    def end(self, outcome: Outcome, *, folder: Path) -> None:
        """Say what was refused and verified, where the model and the report are, and what to do next."""
        refused = sum(attack.refused for attack in outcome.attacks)
        audit = outcome.audit
        record = (
            f"record verified: {audit.records} entries, {audit.witnesses} witnesses"
            if audit.verified
            else "record NOT verified"
        )
        of = f"attacks refused: {refused} of {len(outcome.attacks)}" if outcome.attacks else "no attacks were tried"
        self._facts(f"{of}  ({folder / 'report.html'})", record)
        self._line(f"  model: {folder / 'model.safetensors'}")
        for line in load_lines(folder):
            self._line((f"      {line}", "cyan"))
        self._line("  next: ", (f"cloister audit show {folder / 'audit'}", "bold"))

    def kept(self, *, admin: Path) -> None:
        """Say that everything still runs."""
        self._line("  the federation keeps running; Ctrl-C ends it, and the record is verified then")
        self._line("  try: ", (f"cloister job list --config {admin}", "bold"))

    def _facts(self, *facts: str) -> None:
        self._line("  " + GAP.join(map(one_line, facts)))

    def _line(self, *parts: str | tuple[str, str]) -> None:
        self._console.print(Text.assemble(*parts), soft_wrap=True)


def load_lines(folder: Path) -> tuple[str, ...]:
    """Three lines of Python that load the model."""
    return (
        "from safetensors.numpy import load_file",
        f'weights = load_file("{folder / "model.safetensors"}")',
        "print({name: array.shape for name, array in weights.items()})",
    )
