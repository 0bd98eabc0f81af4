"""The files belong to their owner alone, whatever the umask; a folder that is everybody's is warned of (S15)."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pikkupy import JournalError, Pikku, Workflow

pikku = Pikku()


@pikku.workflow
async def writes(workflow: Workflow) -> str:
    return await workflow.do("Write", lambda: "x")


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=["000", "022", "077"])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.usefixtures("umask")
async def test_all_files_are_the_owner_s_alone_under_every_umask(tmp_path: Path) -> None:
    """File, write-ahead log and shared memory, lock, who holds it, control socket; also when it is opened again."""
    for _ in range(2):
        async with pikku.open(tmp_path / "j.db") as engine:
            await engine.run(writes)
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
            names = ["j.db", "j.db-wal", "j.db-shm", "j.db.lock", "j.db.owner", "j.db.sock"]
            assert modes == dict.fromkeys(names, 0o600)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())


@pytest.mark.parametrize(("mode", "warned"), [(0o700, 0), (0o755, 0), (0o1777, 0), (0o777, 1), (0o702, 1)])
async def test_a_folder_that_everybody_can_write_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, warned: int
) -> None:
    """Anybody could put another file in the place of the journal. With the sticky bit, as of /tmp, nobody can."""
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)

    async with pikku.open(folder / "j.db"):
        pass

    lines = [record for record in caplog.records if record.getMessage().startswith("folder_open_to_all")]
    assert len(lines) == warned
    assert all(str(folder) in line.getMessage() and line.levelno == logging.WARNING for line in lines)


async def test_a_link_that_somebody_has_put_there_is_not_written_through(tmp_path: Path) -> None:
    """Neither for the file that names the holder nor for the lock."""
    for end in ("owner", "lock"):
        precious = tmp_path / f"precious-{end}"
        precious.write_text("precious")
        (tmp_path / f"{end}.db.{end}").symlink_to(precious)

        with pytest.raises(JournalError):
            async with pikku.open(tmp_path / f"{end}.db"):
                pass

        assert precious.read_text() == "precious"
