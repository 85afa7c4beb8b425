"""Commands of the attestation service. Light to import: programs are loaded when they are run."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

_EPILOG = """\
[b]Example[/b]

[cyan]cloister attestation serve --config attestation/attestation.toml[/cyan]
"""


@click.group()
def attestation() -> None:
    """The attestation service: verifies evidence, issues identities, releases keys."""


@attestation.command(epilog=_EPILOG)
@click.option(
    "--config",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings file (TOML); `cloister provision laboratory` writes one.",
)
@click.option("--log-level", default="warning", show_default=True, help="debug, info, warning or error.")
@click.option("--log-json", is_flag=True, help="Log as JSON lines.")
def serve(*, config: Path, log_level: str, log_json: bool) -> None:
    """Run the attestation service until Ctrl-C.

    Before its first root it proves itself to whoever asks and waits; `cloister provision genesis` verifies it and signs
    the root.
    """
    import asyncio

    from attestation.service.program import serve as run
    from attestation.service.settings import AttestationSettings
    from policies.command import configure_logging
    from policies.settings import load_settings

    configure_logging(log_level, json=log_json)
    asyncio.run(run(load_settings(config, AttestationSettings), say=click.echo))
