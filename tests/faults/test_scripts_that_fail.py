"""What a submitter sees of a training script that fails: one cause, with its place, and nothing left at the sites."""

import pytest

from tests.fakes.programs import Program, children_of, gone
from tests.fakes.running import NAMES, script

pytestmark = pytest.mark.asyncio(loop_scope="session")

FOUR = NAMES[:4]

AT_ONE_SITE = "if flare.get_site_name() == 'hospital-b' and received.current_round == 1: "
LINE = script("CHANGE").splitlines().index("    CHANGE") + 1
SENT = LINE + 1


@pytest.mark.parametrize(
    ("change", "line", "cause"),
    [
        ("raise ZeroDivisionError('no samples')", LINE, "ZeroDivisionError: no samples"),
        ("params['weight'][0, 0] = np.nan", SENT, "weight"),
        ("params['weight'] = params['weight'][:2]", SENT, "weight"),
        ("raise SystemExit(3)", LINE, "SystemExit: 3"),
    ],
    ids=["raises", "NaN", "wrong shape", "exits"],
)
async def test_script_that_fails_at_one_site_fails_the_job_with_one_message_that_names_the_place(
    fed, change, line, cause
):
    folder = fed.job_folder(rounds=3, sites=FOUR, code=script(AT_ONE_SITE + change))
    before = {site: children_of(fed.programs[site].pid) for site in FOUR}
    status, lines = await Program.run("job", "submit", folder, "--config", fed.admin_settings)
    said = "\n".join(lines)
    assert status == 1, said
    errors = [text for text in lines if text.startswith("error: ")]
    assert len(errors) == 1, said
    assert f"train.py:{line} " in errors[0]
    assert cause in errors[0]
    assert "(site hospital-b, round 2)" in errors[0]
    assert said.count(f"train.py:{line}") == 1
    assert [text for text in lines if text.startswith("hint: ")], said
    assert "Traceback" not in said
    assert any(text.startswith("round 1/3") for text in lines)
    for site in FOUR:
        assert await gone(children_of(fed.programs[site].pid) - before[site])
        await fed.emptied(site)
