"""What a site's job lets out of its script's errors."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fl_runtime.errors import TrainerError
from fl_runtime.site.job import SiteJob


def job(*, script_errors):
    session = SimpleNamespace(policy=SimpleNamespace(returns=SimpleNamespace(script_errors=script_errors)))
    manifest = SimpleNamespace(code=SimpleNamespace(script="train.py"))
    return SiteJob(session=session, job_id="digits-1", manifest=manifest)


ERROR = TrainerError(
    site="hospital-a", round_number=0, file="/c/train.py", line=3, exception="KeyError", detail="patient 4711"
)


@pytest.mark.parametrize(("script_errors", "leaves"), [(True, True), (False, False)])
def test_a_scripts_words_leave_only_where_the_policy_lets_them(script_errors, leaves):
    assert ("patient 4711" in job(script_errors=script_errors)._outward(ERROR).message) is leaves
