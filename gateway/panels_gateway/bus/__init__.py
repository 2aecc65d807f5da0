"""The socket between the gateway and its workers."""
