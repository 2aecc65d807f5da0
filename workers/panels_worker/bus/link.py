"""Sockets to the gateway: one place for their options."""

from __future__ import annotations

from typing import Final

import zmq

from panels_shared.endpoint import CurveKeys, is_tcp
from panels_shared.wire import MAX_FRAME_BYTES

#: Frames that a socket holds in either direction; above it the sender waits. The gateway's credit stays far
#: below.
HIGH_WATER_FRAMES: Final = 1_024
#: How long a socket that is closed goes on sending, in milliseconds.
LINGER_MS: Final = 500


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
    socket.set(zmq.RECONNECT_IVL, 50)
    socket.set(zmq.RECONNECT_IVL_MAX, 1_000)
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


def close(socket: zmq.Socket[bytes], context: zmq.Context[zmq.Socket[bytes]]) -> None:
    """Closes both once the last messages have been sent, or after ``LINGER_MS``."""
    socket.close(linger=LINGER_MS)
    context.term()
