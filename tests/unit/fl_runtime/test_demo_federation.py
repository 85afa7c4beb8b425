"""Only what a demonstration wrote is replaced; data is prepared once for each seed."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from attestation.mock_tee.machines import measure_image
from fl_runtime.demo.digits import example_folder
from fl_runtime.demo.errors import DemoError
from fl_runtime.demo.federation import (
    SITES,
    TRUST_DOMAIN,
    Prepared,
    clear_folder,
    freeze_image,
    hand_out,
    mark_folder,
    prepare_digits,
)
from fl_runtime.demo.ground import Finished
from policies.errors import UsageError
from provisioning.laboratory import create_laboratory
from provisioning.layout import Laboratory

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)


def laboratory(folder: Path) -> Laboratory:
    return create_laboratory(folder, sites=SITES, trust_domain=TRUST_DOMAIN, base_port=0, now=NOW)


def test_earlier_run_makes_room(tmp_path: Path) -> None:
    laboratory(tmp_path / "demo")
    mark_folder(tmp_path / "demo", seed=1)
    clear_folder(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_empty_or_absent_folder_is_room(tmp_path: Path) -> None:
    clear_folder(tmp_path)
    clear_folder(tmp_path / "absent")


def test_laboratory_that_no_demonstration_made_stays(tmp_path: Path) -> None:
    laboratory(tmp_path / "lab")
    with pytest.raises(UsageError, match="no demonstration wrote"):
        clear_folder(tmp_path / "lab")
    assert (tmp_path / "lab" / "laboratory.toml").exists()


def test_folder_with_other_things_stays(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    mark_folder(tmp_path, seed=1)
    with pytest.raises(UsageError, match="no demonstration wrote"):
        clear_folder(tmp_path)
    assert (tmp_path / "thesis.tex").exists()


def test_file_in_the_way_stays(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("a file")
    with pytest.raises(UsageError, match="no demonstration wrote"):
        clear_folder(tmp_path / "demo")


def test_link_to_an_earlier_run_is_not_followed(tmp_path: Path) -> None:
    laboratory(tmp_path / "demo")
    mark_folder(tmp_path / "demo", seed=1)
    (tmp_path / "link").symlink_to(tmp_path / "demo")
    with pytest.raises(UsageError, match="no demonstration wrote"):
        clear_folder(tmp_path / "link")
    assert (tmp_path / "demo" / "laboratory.toml").exists()


def test_each_site_gets_its_own_data(tmp_path: Path) -> None:
    made = laboratory(tmp_path / "demo")
    for site in SITES:
        (tmp_path / f"{site}.npz").write_text(site)
    hand_out(Prepared(folder=tmp_path, counts={}), made)
    assert made.data("hospital-b").read_text() == "hospital-b"


def test_site_without_data_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="no data for hospital-a"):
        hand_out(Prepared(folder=tmp_path, counts={}), laboratory(tmp_path / "demo"))


class Example:
    """Stands for the example's own process: writes one file, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def require(self, name: str, command: tuple[str, ...], *, nice: int = 0) -> Finished:
        self.asked += 1
        (Path(command[-2]) / "test.npz").touch()
        return Finished(exit_code=0, output=('{"test": 3}',), errors=())


async def test_digits_are_prepared_once_for_each_seed(tmp_path: Path) -> None:
    processes = Example()

    async def prepared(seed: int) -> Prepared:
        return await prepare_digits(processes, example=example_folder(), cache=tmp_path / "c", seed=seed)  # type: ignore[arg-type]

    first, again, other = await prepared(1), await prepared(1), await prepared(2)
    assert processes.asked == 2
    assert first == again
    assert first.folder != other.folder
    assert (first.folder / "test.npz").exists()
    assert first.counts == {"test": 3}
    assert {entry.name for entry in (tmp_path / "c").iterdir()} == {first.folder.name, other.folder.name}


def test_frozen_image_has_the_measurement_of_the_code_that_runs(tmp_path: Path) -> None:
    frozen = freeze_image(tmp_path / "image")
    names = ["attestation", "policies", "provisioning", "fl_runtime"]
    assert [folder.name for folder in frozen] == names
    repository = example_folder().parents[1]
    assert measure_image(*frozen) == measure_image(*(repository / name for name in names))
