"""The `cloister provision` commands: bring up a laboratory federation on one machine, and tell its auditors whom to believe."""

from __future__ import annotations

from pathlib import Path

import rich_click as click

from policies.errors import UsageError

MEASUREMENT_BYTES = 48

_directory = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))


def _examples(*lines: str) -> str:
    return "Examples:\n\n" + "\n\n".join(f"cloister provision {line}" for line in lines)


@click.group(
    epilog=_examples(
        "laboratory runs/lab",
        "genesis runs/lab --image-measurement $(cloister mock-tee measure attestation)",
        "grants runs/lab",
        "audit-trust runs/lab",
    )
)
def provision() -> None:
    """Bring up a federation: identities and settings, then signed documents and kits, then grants for its machines.

    At its end: whom an auditor of its record believes.
    """


@provision.command(
    epilog=_examples(
        "laboratory runs/lab",
        "laboratory runs/lab --sites 7 --base-port 7000",
        "laboratory runs/lab --site clinic-1=north --site clinic-2=north --site clinic-3=south",
    )
)
@_directory
@click.option("--sites", "count", type=int, help="How many sites, each of its own organisation.  [default: 4]")
@click.option("--site", "named", metavar="NAME=ORG", multiple=True, help="A site and its organisation; repeatable.")
@click.option("--trust-domain", default="demo.cloister.mock", show_default=True, help="Ends in .mock.")
@click.option(
    "--base-port",
    type=int,
    default=0,
    show_default=True,
    help="The first of three ports in a row; 0: any that are free.",
)
def laboratory(directory: Path, count: int | None, named: tuple[str, ...], trust_domain: str, base_port: int) -> None:
    """Make keys, settings and free ports in DIR, which must not exist yet or be empty. Nothing is started."""
    from datetime import UTC, datetime

    from provisioning.documents import MIN_COHORT
    from provisioning.laboratory import create_laboratory, default_sites

    if named and count is not None:
        raise UsageError("expected either --sites or --site")
    sites = parse_sites(named) if named else default_sites(4 if count is None else count)
    made = create_laboratory(
        directory,
        sites=sites,
        trust_domain=trust_domain,
        base_port=base_port,
        now=datetime.now(UTC).replace(microsecond=0),
    )
    addresses = made.layout.addresses
    click.echo(f"laboratory {made.layout.trust_domain} in {made.directory}")
    click.echo(f"  {made.layout.operator:<14} attestation service at {addresses.enrol} and {addresses.attested}")
    click.echo(f"  {made.layout.operator:<14} server at {addresses.server}")
    for site, organisation in made.layout.sites.items():
        click.echo(f"  {organisation:<14} {site}")
    if len(made.layout.sites) < MIN_COHORT:
        click.echo(f"note: the policies of its sites ask for {MIN_COHORT} sites in a job: these can only attest")
    click.echo("next, with IMAGE the folders of the image:")
    click.echo(f"  cloister mock-tee serve --config {made.mock_tee_settings}")
    click.echo(f"  cloister mock-tee roots --dir {made.tee}")
    click.echo(
        f"  cloister mock-tee launch --dir {made.tee} --name attestation --image IMAGE --init-data {made.service_init_data}"
    )
    click.echo(f"  cloister attestation serve --config {made.service_settings}")
    click.echo(f"  cloister provision genesis {directory} --image-measurement $(cloister mock-tee measure IMAGE)")


@provision.command(
    epilog=_examples("genesis runs/lab --image-measurement $(cloister mock-tee measure attestation policies)")
)
@_directory
@click.option(
    "--image-measurement",
    metavar="HEX",
    required=True,
    help="The expected launch measurement, 48 bytes in hex: `cloister mock-tee measure` prints it.",
)
def genesis(directory: Path, image_measurement: str) -> None:
    """Verify the running attestation service of DIR, sign root, roster and reference values, and write the kits.

    A run that was cut short is continued: what was signed is never signed a second time.
    """
    import asyncio
    from datetime import UTC, datetime

    from provisioning.genesis import run_genesis
    from provisioning.layout import Laboratory

    founded = Laboratory.load(directory)
    image = parse_measurement(image_measurement)
    asyncio.run(run_genesis(founded, image=image, now=datetime.now(UTC).replace(microsecond=0), say=click.echo))
    click.echo("next, for each node of the kits:")
    click.echo(
        f"  cloister mock-tee launch --dir {founded.tee} --name NODE --image IMAGE --init-data {founded.kit('NODE')}/"
        "init-data.json --gpu SERIAL"
    )
    click.echo(f"  cloister provision grants {directory}")


@provision.command(epilog=_examples("grants runs/lab", "grants runs/lab --node hospital-a --node hospital-b"))
@_directory
@click.option("--node", "nodes", multiple=True, help="Only this node; repeatable.  [default: all]")
def grants(directory: Path, nodes: tuple[str, ...]) -> None:
    """Read the hardware of each node's running machine in DIR and sign its grant, for 30 days.

    Granting again renews: the new grant succeeds the one before it.
    """
    from datetime import UTC, datetime

    from provisioning.grants import grant_nodes
    from provisioning.layout import Laboratory

    now = datetime.now(UTC).replace(microsecond=0)
    for granted in grant_nodes(Laboratory.load(directory), nodes=nodes or None, now=now):
        grant = granted.grant
        click.echo(
            f"{grant.node} may run on (grant {grant.version} of {grant.organisation}, until {grant.expires_at:%Y-%m-%d})"
        )
        for item in grant.hardware:
            click.echo(f"  {item.kind:<12} {item.value.hex()[:32]}…")
        click.echo(f"  {'fingerprint':<12} sha256:{granted.sha256.hex()}")


@provision.command("audit-trust", epilog=_examples("audit-trust runs/lab", "audit-trust runs/lab --open"))
@_directory
@click.option(
    "--open", "still_open", is_flag=True, help="Logs may still be written: what is not yet signed is not judged."
)
def audit_trust(directory: Path, *, still_open: bool) -> None:
    """Write DIR/trust.json: the keys that have signed each log, and who witnesses it. For `cloister audit verify`."""
    from datetime import UTC, datetime

    from provisioning.audit_trust import certify_audit
    from provisioning.layout import Laboratory

    laboratory = Laboratory.load(directory)
    fingerprint = certify_audit(laboratory, now=datetime.now(UTC), closed=not still_open)
    click.echo(f"written to {laboratory.audit_trust}\n  fingerprint {fingerprint}")
    click.echo(f"next:\n  cloister audit verify {directory / 'audit'}")


def parse_sites(named: tuple[str, ...]) -> dict[str, str]:
    """Parse `NAME=ORG`, each site once.

    Raises:
        UsageError: One is not of that form, or a site is named twice.
    """
    sites: dict[str, str] = {}
    for text in named:
        name, equals, organisation = text.partition("=")
        if not (name and equals and organisation):
            raise UsageError(f"found the site {text!r}, expected NAME=ORG")
        if name in sites:
            raise UsageError(f"the site {name} is named twice")
        sites[name] = organisation
    return sites


def parse_measurement(text: str) -> bytes:
    """Parse a launch measurement, 48 bytes in hex.

    Raises:
        UsageError: It is not that.
    """
    try:
        raw = bytes.fromhex(text)
    except ValueError as error:
        raise UsageError(f"found the measurement {text!r:.80}, expected hex digits") from error
    if len(raw) != MEASUREMENT_BYTES:
        raise UsageError(f"the measurement has {len(raw)} bytes, expected {MEASUREMENT_BYTES}")
    return raw
