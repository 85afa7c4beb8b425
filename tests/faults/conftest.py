"""One federation of five for all tests of this folder; whatever a test has ended is started again for the next."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.fakes.running import RunningFederation, federation


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def five(tmp_path_factory) -> AsyncIterator[RunningFederation]:
    async with federation(tmp_path_factory.mktemp("five"), sites=5) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def fed(five) -> AsyncIterator[RunningFederation]:
    await five.restore()
    try:
        yield five
    finally:
        await five.restore()
        await five.settle()
