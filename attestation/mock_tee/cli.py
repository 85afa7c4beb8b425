"""The `cloister mock-tee` commands: a hypervisor and a hardware vendor for development, in a process of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from policies.errors import UsageError

if TYPE_CHECKING:
    from attestation.mock_tee.machines import MilanTcb
    from attestation.mock_tee.settings import MockTeeSettings

READY = "mock TEE ready at {} (nothing here is attested by hardware)"
ANCHORS_FILE = "anchors.json"


def _examples(*lines: str) -> str:
    return "Examples:\n\n" + "\n\n".join(f"cloister mock-tee {line}" for line in lines)


_folder_option = click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the mock TEE: its vendor's keys and its sockets.",
)


@click.group(
    epilog=_examples(
        "serve --dir run/tee", "launch --dir run/tee --name server --image fl_runtime --init-data server.json"
    )
)
def mock_tee() -> None:
    """Launch machines that sign evidence in the vendors' formats, for development. No hardware attests any of it."""


@mock_tee.command(epilog=_examples("serve --dir run/tee", "serve --config lab.toml"))
@click.option(
    "--config", type=click.Path(path_type=Path), help="TOML: directory, and any number of [[machine]] tables."
)
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path, file_okay=False), help="Folder, where there is no file."
)
@click.option("--log-level", default="warning", show_default=True, help="debug, info, warning or error.")
def serve(config: Path | None, folder: Path | None, log_level: str) -> None:
    """Serve until interrupted. The first start makes the vendor's keys, which takes some seconds."""
    import asyncio

    from attestation.mock_tee.settings import MockTeeSettings
    from policies.command import configure_logging
    from policies.settings import load_settings

    configure_logging(log_level)
    if config is not None and folder is None:
        settings = load_settings(config, MockTeeSettings)
    elif folder is not None and config is None:
        settings = MockTeeSettings(directory=folder)
    else:
        raise UsageError("expected either --config or --dir")
    asyncio.run(_serve(settings))


async def _serve(settings: MockTeeSettings) -> None:
    import asyncio
    import secrets
    import signal
    from datetime import UTC, datetime

    from attestation.mock_tee.hardware import Hardware
    from attestation.mock_tee.server import MockTeeServer
    from attestation.mock_tee.vendor import open_vendor

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    vendor = await asyncio.to_thread(open_vendor, settings.directory, now=datetime.now(UTC))
    hardware = Hardware(vendor, now=lambda: datetime.now(UTC), randomness=secrets.token_bytes)
    async with MockTeeServer(settings.directory, hardware) as server:
        for machine in settings.machine:
            await server.launch(machine.to_launch())
        click.echo(READY.format(settings.directory))
        await stop.wait()


@mock_tee.command(
    epilog=_examples(
        "launch --dir run/tee --name hospital-a --image fl_runtime --init-data hospital-a.json --gpu H100-0007",
        "launch --dir run/tee --name stale --image fl_runtime --init-data a.json --tcb bootloader=3,tee=0,snp=8,microcode=115",
        "launch --dir run/tee --name open --image fl_runtime --init-data a.json --debug",
    )
)
@_folder_option
@click.option("--name", required=True, help="Name of the machine; its TEE device is NAME.sock in the folder.")
@click.option("--chip", help="Id of the chip, 64 bytes in hex.")
@click.option("--chip-seed", help="Any text that stands for a chip.  [default: the name of the machine]")
@click.option(
    "--image", type=click.Path(path_type=Path), multiple=True, help="Folder whose code is measured; repeatable."
)
@click.option("--measurement", help="Launch digest, 48 bytes in hex, instead of --image.")
@click.option("--init-data", type=click.Path(path_type=Path), help="File whose digest becomes HOST_DATA.")
@click.option("--host-data", help="HOST_DATA, 32 bytes in hex, instead of --init-data.")
@click.option(
    "--gpu", "gpus", multiple=True, help="Serial number of a GPU; repeatable. A board may be in two machines."
)
@click.option("--driver", help="Version of the GPU driver.")
@click.option("--debug", is_flag=True, help="Set the DEBUG policy bit: the host may read the guest's memory.")
@click.option("--tcb", help="Firmware: bootloader=N,tee=N,snp=N,microcode=N.  [default: current]")
@click.option("--launch-tcb", help="Firmware at launch, where it was updated since.  [default: as --tcb]")
@click.option("--vmpl", type=int, default=0, show_default=True, help="Privilege level that asks for reports, 0 to 3.")
@click.option("--report-version", type=int, default=3, show_default=True, help="Version of reports, 2 to 5.")
def launch(folder: Path, tcb: str | None, launch_tcb: str | None, **options: Any) -> None:  # noqa: ANN401 - click's
    """Launch a machine and print the path of its TEE device."""
    from pydantic import ValidationError

    from attestation.mock_tee.control import Hypervisor
    from attestation.mock_tee.settings import MachineSettings
    from policies.documents import describe

    options |= {"tcb": parse_tcb(tcb) if tcb else None, "launch_tcb": parse_tcb(launch_tcb) if launch_tcb else None}
    given = {name: value for name, value in options.items() if value is not None}
    try:
        machine = MachineSettings.model_validate(given)
    except ValidationError as error:
        raise UsageError(f"launch: {describe(error)}", hint="see 'cloister mock-tee launch --help'") from error
    click.echo(Hypervisor(folder).launch(machine.to_launch()))


def parse_tcb(text: str) -> MilanTcb:
    """Parse `bootloader=4,tee=0,snp=24,microcode=219`; numbers may be hexadecimal, as in `snp=0x18`.

    Raises:
        UsageError: It is not that.
    """
    from attestation.mock_tee.machines import MilanTcb

    parts = [part.partition("=") for part in text.split(",")]
    expected = "bootloader=N,tee=N,snp=N,microcode=N"
    if len({name for name, _, _ in parts}) != len(parts):
        raise UsageError(f"found the TCB {text!r} with a part twice, expected {expected}")
    try:
        return MilanTcb.model_validate({name: int(number, base=0) for name, _, number in parts})
    except ValueError as error:  # of `int`, or pydantic's
        raise UsageError(f"found the TCB {text!r}, expected {expected} with each N from 0 to 255") from error


@mock_tee.command("list", epilog=_examples("list --dir run/tee"))
@_folder_option
def list_machines(folder: Path) -> None:
    """List the machines that run, one a line."""
    from attestation.mock_tee.control import Hypervisor
    from attestation.mock_tee.machines import POLICY_DEBUG

    for machine in Hypervisor(folder).machines():
        facts: Mapping[str, str] = {
            "measurement": machine.snp.measurement.hex()[:16],
            "chip": machine.snp.chip_id.hex()[:16],
            "gpus": ",".join(gpu.serial for gpu in machine.gpus) or "none",
            "debug": "yes" if machine.snp.policy & POLICY_DEBUG else "no",
        }
        click.echo(f"{machine.name}  " + "  ".join(f"{name}={value}" for name, value in facts.items()))


@mock_tee.command(epilog=_examples("destroy --dir run/tee --name hospital-a"))
@_folder_option
@click.option("--name", required=True, help="Name of the machine.")
def destroy(folder: Path, name: str) -> None:
    """Destroy a machine and remove its TEE device."""
    from attestation.mock_tee.control import Hypervisor

    Hypervisor(folder).destroy(name)


@mock_tee.command(epilog=_examples("roots --dir run/tee"))
@_folder_option
def roots(folder: Path) -> None:
    """Print the fingerprints of the vendor's roots and write them to anchors.json; makes the vendor where there is none."""
    import json
    from datetime import UTC, datetime

    from attestation.mock_tee.vendor import open_vendor

    anchors = open_vendor(folder, now=datetime.now(UTC)).anchors
    for anchor in anchors:
        click.echo(f"{anchor.vendor}  {anchor.product}  sha256:{anchor.sha256.hex()}")
    path = folder / ANCHORS_FILE
    path.write_text(json.dumps([anchor.model_dump(mode="json") for anchor in anchors], indent=2) + "\n")
    click.echo(f"written to {path}", err=True)


@mock_tee.command(epilog=_examples("measure attestation policies fl_runtime"))
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
def measure(folders: tuple[Path, ...]) -> None:
    """Print the measurement of these image folders: what a machine launched from them will report."""
    from attestation.mock_tee.machines import measure_image

    click.echo(measure_image(*folders).hex())
