"""What the operator says about extensions: a TOML file, or the ``ExtensionsConfig`` that it stands for.

docs/extensions.md shows a whole file. The gateway reads the file and hands it to the extension process over a
pipe. Secrets are in no environment and on no command line; those that are named by ``file`` are read by the
extension process alone. Unknown fields are refused, since a misspelt limit must not mean no limit.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from panels_gateway.extensions.errors import ExtensionConfigError
from panels_gateway.extensions.messages import MAX_RESULT_BYTES

#: The largest configuration, as file and over the pipe. A security limit.
MAX_CONFIG_BYTES: Final = 1024 * 1024
#: A shorter secret would be found by chance in every other answer.
MIN_SECRET_CHARS: Final = 8

_Positive = Annotated[int, msgspec.Meta(ge=1)]
_Paths = Annotated[list[Annotated[str, msgspec.Meta(pattern="^/")]], msgspec.Meta(max_length=256)]
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class Secret(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A credential that handlers use by name.

    Exactly one of ``value`` and ``file``; ``origins`` are where it may go.

    Origins are patterns as in ``HttpConfig.allow``, without CIDR ranges. The text of a file
    loses white space at its end.
    """

    origins: Annotated[list[str], msgspec.Meta(min_length=1, max_length=64)]
    value: str = ""
    file: str = ""

    def __repr__(self) -> str:
        return f"Secret(origins={self.origins!r})"


class HttpConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bounds of the egress that ``http`` and other extensions share; ``allow`` is empty
    unless the operator fills it.

    - ``timeout_s``: one call in all, redirects and look-ups included.
    - ``request_bytes``: the body of a request. ``response_bytes``: the body of an answer after decompression.
    - ``header_count``, ``header_bytes``: headers of an answer, and of a request.
    - ``redirects``: how many a handler may ask to follow.
    - ``concurrency``, ``concurrency_per_panel``: exchanges at once; more wait within ``timeout_s``.
    - ``ca_file``: certificates of authorities that are trusted beside the public ones.
    """

    allow: Annotated[list[str], msgspec.Meta(max_length=1_024)] = []
    secrets: dict[Annotated[str, msgspec.Meta(pattern="^[A-Z][A-Z0-9_]{0,63}$")], Secret] = {}
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=55)] = 5.0
    request_bytes: _Positive = 1024 * 1024
    response_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_RESULT_BYTES)] = 1024 * 1024
    header_count: _Positive = 100
    header_bytes: Annotated[int, msgspec.Meta(ge=1, le=64 * 1024)] = 32 * 1024
    redirects: Annotated[int, msgspec.Meta(ge=0, le=20)] = 5
    concurrency: _Positive = 64
    concurrency_per_panel: _Positive = 6
    ca_file: str = ""


class ExtensionsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which extensions there are, and with what settings.

    - ``extensions``: ``module:attribute`` of objects or classes, beside those of the entry-point group
      ``panels.extensions``, which are used when ``entry_points`` is true.
    - ``interceptors``: ``module:attribute`` of async functions around every call, the outermost first.
    - ``path``: folders that modules are looked for in, beside the installed packages.
    - ``settings``: by the name of an extension, what its ``startup`` gets.
    - ``result_bytes``: the largest result of a call as JSON.
    - ``startup_s``: how long all extensions together may take to start, or to shut down.
    - ``confine``: whether the process locks itself in before it takes calls: ``auto`` as far as this system
      can, ``strict`` refuses to start where a layer is missing, ``off`` not at all.
    - ``readable``, ``writable``: files and folders that calls need, with all that is below them; beside them
      nothing but Python's own and what TLS and look-ups need can be read, and nothing written.
    - ``local_sockets``: whether calls may connect to Unix sockets.
    - ``hidden``: what stays closed even where it is in a folder that can be read. The gateway adds its data
      directory and its key files.
    """

    extensions: Annotated[list[str], msgspec.Meta(max_length=256)] = []
    entry_points: bool = True
    interceptors: Annotated[list[str], msgspec.Meta(max_length=32)] = []
    path: Annotated[list[str], msgspec.Meta(max_length=32)] = []
    settings: dict[str, dict[str, Any]] = {}
    http: HttpConfig = HttpConfig()
    result_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_RESULT_BYTES)] = 4 * 1024 * 1024
    startup_s: _Seconds = 30.0
    confine: Literal["auto", "strict", "off"] = "auto"
    readable: _Paths = []
    writable: _Paths = []
    local_sockets: bool = False
    hidden: _Paths = []
    log_level: str = "info"


def load(path: Path) -> ExtensionsConfig:
    """The configuration in a TOML file. Raises ``ExtensionConfigError`` with the path of the field."""
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as exc:
        raise ExtensionConfigError(f"cannot read {path}: {exc.strerror}") from None
    if len(text) > MAX_CONFIG_BYTES:
        raise ExtensionConfigError(f"expected a file of at most {MAX_CONFIG_BYTES} bytes: {path}")
    try:
        return msgspec.convert(tomllib.loads(text.decode()), ExtensionsConfig)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as exc:
        raise ExtensionConfigError(f"{path}: {exc}") from None


def encode(config: ExtensionsConfig) -> bytes:
    """``config`` as it goes through the pipe."""
    return msgspec.json.encode(config)


def decode(text: bytes) -> ExtensionsConfig:
    """What ``encode`` made. Raises ``ExtensionConfigError``."""
    if len(text) > MAX_CONFIG_BYTES:
        raise ExtensionConfigError(f"expected a configuration of at most {MAX_CONFIG_BYTES} bytes")
    try:
        return msgspec.json.decode(text, type=ExtensionsConfig)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise ExtensionConfigError(f"the configuration: {exc}") from None


def value_of(name: str, secret: Secret) -> str:
    """The text of a secret. Raises ``ExtensionConfigError``; its sentence never holds the value."""
    if bool(secret.value) == bool(secret.file):
        raise ExtensionConfigError(f"http.secrets.{name}: expected either value or file")
    try:
        value = secret.value or Path(secret.file).read_text().rstrip()
    except (OSError, UnicodeDecodeError):
        raise ExtensionConfigError(f"http.secrets.{name}: cannot read its file") from None
    if len(value) < MIN_SECRET_CHARS or not value.isascii() or not value.isprintable():
        raise ExtensionConfigError(
            f"http.secrets.{name}: expected at least {MIN_SECRET_CHARS} printable ASCII characters"
        )
    return value
