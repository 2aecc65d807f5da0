"""What one job may use: value objects with named defaults, and the clamp that keeps them inside maxima.

Every bound here is a security limit: it is enforced by the worker while untrusted code runs and, where the
gateway can see the quantity, once more by the gateway.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from panels_shared.errors import LimitError

KIB = 1024
MIB = 1024 * KIB

#: Stack of a guest, in bytes. One engine serves all jobs of a process, so it is not a per-tool limit.
MAX_WASM_STACK_BYTES = MIB

#: Elements of any array or map in a frame between gateway and workers.
MAX_ELEMENTS = 131_072
#: A suspended handler's image, in bytes, compressed. A handler whose image is larger fails.
MAX_IMAGE_BYTES = 16 * MIB
#: Extension calls that a handler may make in one segment, that is from one suspension to the next.
MAX_CALLS = 64
#: Extension calls of one handler that may wait for their answers at a time, those of earlier segments
#: included.
MAX_OPEN_CALLS = 256
#: Characters of the name of an extension, and of a method.
MAX_EXTENSION_NAME_CHARS = 64
#: A call's arguments, and an answer's value, in bytes of JSON.
MAX_CALL_ARGS_BYTES = MIB
MAX_ANSWER_BYTES = 4 * MIB
#: What a handler says of its failure to programs: characters of the code, bytes of JSON of the details.
MAX_HANDLER_CODE_CHARS = 64
MAX_HANDLER_DETAILS_BYTES = 4 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds of one job. All are inclusive maxima and positive.

    - ``fuel``: wasmtime fuel units; deterministic, about one per WebAssembly instruction.
    - ``deadline_ms``: wall clock from the guest's first instruction, in milliseconds.
    - ``memory_bytes``: linear memory of the guest (for JavaScript: of the whole engine instance).
    - ``host_calls``: calls from the guest into the host.
    - ``output_bytes``: mutations, events, view commands and return value together, as JSON.
    - ``events``: events and, separately, view commands emitted.
    - ``log_bytes``: log text kept; what is above it is cut and marked, never an error.
    """

    fuel: int = 1_000_000_000
    deadline_ms: int = 5_000
    memory_bytes: int = 32 * MIB
    host_calls: int = 10_000
    output_bytes: int = MIB
    events: int = 1_000
    log_bytes: int = 64 * KIB

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 1:
                raise LimitError(field.name, value, minimum=1)

    def clamp(self, maxima: Limits) -> Limits:
        """These limits, none above the same field of ``maxima``."""
        return replace(
            self, **{f.name: min(getattr(self, f.name), getattr(maxima, f.name)) for f in fields(self)}
        )


DEFAULT_LIMITS = Limits()

#: How far a tool may raise its limits unless the gateway is configured otherwise.
DEFAULT_MAXIMA = Limits(
    fuel=10_000_000_000,
    deadline_ms=30_000,
    memory_bytes=128 * MIB,
    host_calls=100_000,
    output_bytes=4 * MIB,
    events=10_000,
    log_bytes=256 * KIB,
)
