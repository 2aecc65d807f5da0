"""The vocabulary that gateway and workers share: messages, limits, outcomes, errors.

Nothing in this package does I/O: no asyncio, no sockets, no zmq, no wasmtime. Import what you need
from the module that owns it; this file re-exports nothing.
"""

__version__ = "0.1.0"
