"""Sockets to the gateway: one place for their options."""

from __future__ import annotations

import socket as sockets
import sys
from enum import Enum
from typing import Final

import zmq

from panels_shared.endpoint import CurveKeys, is_tcp
from panels_shared.wire import MAX_FRAME_BYTES

#: Frames that a socket holds in either direction; above it the sender waits. The gateway's credit stays far
#: below.
HIGH_WATER_FRAMES: Final = 1_024
#: How long a socket that is closed goes on sending, in milliseconds.
LINGER_MS: Final = 500
#: How long after a failure a connection is tried again; over a network the delay doubles up to the maximum.
RECONNECT_MS: Final = 50
MAX_RECONNECT_MS: Final = 1_000
#: At the beginning of a monitor's message: the number of the event, in the machine's order.
_EVENT_BYTES: Final = 2


def connect(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, worker: bytes, curve: CurveKeys | None
) -> zmq.Socket[bytes]:
    """A DEALER with the routing id ``worker`` that connects to ``endpoint``, now or once somebody listens
    there.

    It takes messages only while it has a connection, so that ``POLLOUT`` says whether there is one, and
    nothing is delivered late to a gateway that came after the one it was meant for.
    """
    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    socket.set(zmq.ROUTING_ID, worker)
    socket.set(zmq.IMMEDIATE, 1)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.set(zmq.SNDHWM, HIGH_WATER_FRAMES)
    socket.set(zmq.RCVHWM, HIGH_WATER_FRAMES)
    socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.set(zmq.RECONNECT_IVL_MAX, MAX_RECONNECT_MS if is_tcp(endpoint) else RECONNECT_MS)
    socket.set(zmq.HANDSHAKE_IVL, 3_000)
    if is_tcp(endpoint):
        # a peer that vanished silently is found by ZMTP pings; a unix socket always tells
        socket.set(zmq.HEARTBEAT_IVL, 1_000)
        socket.set(zmq.HEARTBEAT_TIMEOUT, 3_000)
    if curve is not None:
        (gateway,) = curve.peers
        socket.set(zmq.CURVE_SERVERKEY, gateway)
        socket.set(zmq.CURVE_PUBLICKEY, curve.public)
        socket.set(zmq.CURVE_SECRETKEY, curve.secret)
    socket.connect(endpoint)
    return socket


class Break(Enum):
    """How a connection ended."""

    LOST = "lost"  #: it will be made again
    REFUSED = "refused"  #: the gateway does not know our CURVE key, and libzmq does not try again


def watch(socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
    """A socket that becomes readable when ``socket`` loses its connection; ``broke`` reads it, and ``close``
    takes it too.
    """
    return socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH)


def broke(watch: zmq.Socket[bytes]) -> Break | None:
    """How the connection was lost since the last call; None if it was not."""
    found: Break | None = None
    while int(watch.get(zmq.EVENTS)) & zmq.POLLIN:
        event = int.from_bytes(watch.recv_multipart(zmq.NOBLOCK)[0][:_EVENT_BYTES], sys.byteorder)
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            found = Break.REFUSED
        elif found is None:
            found = Break.LOST
    return found


def close(
    socket: zmq.Socket[bytes],
    context: zmq.Context[zmq.Socket[bytes]],
    watch: zmq.Socket[bytes] | None = None,
) -> None:
    """Closes all of them once the last messages have been sent, or after ``LINGER_MS``."""
    if watch is not None:
        socket.disable_monitor()
        watch.close(linger=0)
    socket.close(linger=LINGER_MS)
    context.term()


def look_at(endpoint: str) -> str:
    """What can be seen of the gateway's end from here, for a log: whether there is a socket, and whether
    anybody listens on it. It is a look and no connection: whoever listens hears nothing.
    """
    if is_tcp(endpoint):
        return "look whether a gateway listens there and no firewall stands in between"
    path = endpoint.removeprefix("ipc://")
    with sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except FileNotFoundError:
            return (
                f"there is no socket {path}; start the gateway, or give its --workers-endpoint as --gateway"
            )
        except ConnectionRefusedError:
            return f"nobody serves the socket {path}; the gateway that made it is gone"
        except PermissionError:
            return f"this user may not open the socket {path}; run the pool as root or as the gateway's user"
        except OSError as exc:
            return f"the socket {path} cannot be opened: {exc.strerror}"
    return f"somebody serves the socket {path}; look whether both have one bus key, and at the gateway's log"
