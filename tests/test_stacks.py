"""A test that exceeds its time limit fails with the stacks of all threads and tasks."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
from programs import run
from stacks import stacks

STUCK = '''
import asyncio, threading, time
import pytest, trio

pytestmark = pytest.mark.timeout(1)

async def a_task(sleep):
    await sleep(100)

async def test_in_trio():
    threading.Thread(target=time.sleep, args=(2,), name="another thread", daemon=True).start()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a_task, trio.sleep)

def test_in_asyncio():
    asyncio.run(a_task(asyncio.sleep))

def test_in_a_thread():
    time.sleep(100)

async def test_that_comes_later():
    await trio.sleep(0)
'''


@pytest.mark.skipif(os.name == "nt", reason="pytest-timeout ends the process there")
@pytest.mark.parametrize("workers", ["0", "1"])
def test_stuck_tests(tmp_path: Path, workers: str) -> None:
    stuck = tmp_path / "test_stuck.py"
    stuck.write_text(STUCK)
    done = run(
        "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "-n", workers, "-o",
        "trio_mode=true", "--rootdir", str(tmp_path), str(stuck),
        PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    # On 3.14 the interrupted run of trio stays alive, and no later test can start one.
    assert ("3 failed, 1 passed" if sys.version_info < (3, 14) else "4 failed") in done.stdout
    assert done.stdout.count("Exceeded 1 seconds.") >= 3
    for known in ("thread another thread:", "thread MainThread:", "a_task:\n", "asyncio task "):
        assert known in done.stdout


def test_another_thread_has_no_tasks() -> None:
    texts: list[str] = []
    thread = threading.Thread(target=lambda: texts.append(stacks()), name="mine")
    thread.start()
    thread.join()
    assert "thread mine:" in texts[0]
    assert "trio task" not in texts[0]
    assert "asyncio task" not in texts[0]
