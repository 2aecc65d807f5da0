"""A real pool whose sandboxes cannot live ends, with an exit code of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from panels_shared.buskey import key_file_beside
from panels_worker.status import Exit
from tests.support.fake_gateway import make_bus_key

PROGRAM = """
import sys
from pathlib import Path
from panels_worker.pool.pool import Pool
from panels_worker.settings import Bounds, PoolConfig

config = PoolConfig(
    gateway=sys.argv[1],
    processes=2,
    cache_dir=Path(sys.argv[2]),
    sandbox_command=(sys.executable, "-c", "raise SystemExit(1)"),
    bounds=Bounds(crash_tries=int(sys.argv[3])),
)
sys.exit(Pool(config).run())
"""


def test_pool_whose_sandboxes_end_before_they_are_ready_ends_with_its_own_exit_code(tmp_path: Path) -> None:
    # pytest's own folders have paths too long for a socket
    with tempfile.TemporaryDirectory(prefix="panels-") as folder:
        endpoint = f"ipc://{folder}/s"
        make_bus_key(Path(key_file_beside(endpoint)))
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, endpoint, str(tmp_path), "4"],
            capture_output=True,
            text=True,
            timeout=50,
        )
    assert ended.returncode == Exit.CRASH_LOOP, ended.stderr
    assert ended.stderr.count("none serves: the pool ends") == 1
