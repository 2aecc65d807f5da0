"""Files with secrets in them: who else may read one, as its mode says. Whoever opened the file looks; nothing
here does I/O.
"""

from __future__ import annotations

import stat


def exposure(mode: int, *, option: str, path: str) -> str | None:
    """A sentence for the log if everybody on the machine may read the file, else None.

    ``mode`` is the file's. It is a warning and no refusal: some platforms mount secrets readable for all of a
    container, in which there is nobody else.
    """
    if not mode & stat.S_IROTH:
        return None
    return (
        f"{option}: expected a file that only its owner can read, got mode {stat.S_IMODE(mode):03o} on "
        f"{path}: "
        f"everybody on this machine can read the secret; chmod 600 {path}"
    )
