"""What SIGHUP changes in a gateway that runs, without a connection that is dropped: keys, and the options of
``LIVE``. What else has changed is named in the log, because it needs a restart.

The configuration is taken whole or not at all: where it is wrong, everything stays as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from panels_gateway.access.keys import load_keyring
from panels_shared.errors import ConfigError
from panels_shared.logs import set_levels

if TYPE_CHECKING:
    from panels_gateway.access.tokens import TokenVerifier
    from panels_gateway.app import GatewayApp
    from panels_gateway.configuration.config import AuthConfig, GatewayConfig

_log = logging.getLogger("panels.gateway")

#: Keys of the options that may change while the gateway runs. The others are spread over what was made of
#: them when it started: sockets, queues, connections that are open.
LIVE: Final = frozenset({"allowed_hosts", "auth_failure_rate", "log_level", "upgrade_rate"})


class Reloader:
    """``started`` is what the gateway runs with, and ``read`` reads the configuration again, from the same
    command line, environment and file.
    """

    def __init__(
        self,
        started: GatewayConfig,
        read: Callable[[], GatewayConfig],
        app: GatewayApp,
        verifier: TokenVerifier | None,
    ) -> None:
        self._started = started
        self._current = started
        self._read = read
        self._app = app
        self._verifier = verifier

    def reload(self) -> None:
        """Reads keys and configuration again. What is wrong is logged, and changes nothing."""
        if self._verifier is not None:
            _reload_keys(self._verifier, self._started.auth)
        try:
            config = self._read()
        except ConfigError as exc:
            _log.error("configuration not read again, the old one stays: %s", exc)
            return
        # a socket that was handed over stays where it is
        config = replace(config, listen=replace(config.listen, host=self._started.listen.host))
        before, self._current = self._current, config
        self._app.change(config)
        set_levels(config.log_level)
        taken = _changed(before, config) & LIVE
        _log.info("configuration read again; changed: %s", _names(taken) or "nothing")
        if waiting := _changed(self._started, config) - LIVE:
            _log.warning("changed, and need a restart: %s", _names(waiting))


def _changed(before: GatewayConfig, after: GatewayConfig) -> set[str]:
    assert before.values is not None
    assert after.values is not None
    return before.values.changed(after.values)


def _names(keys: set[str]) -> str:
    return ", ".join(sorted(key.replace("_", "-") for key in keys))


def _reload_keys(verifier: TokenVerifier, auth: AuthConfig) -> None:
    try:
        verifier.replace_keys(load_keyring(auth.secret_file, auth.jwks_file, auth.algorithms))
    except ConfigError as exc:
        _log.error("keys not read again, the old ones stay: %s", exc)
    else:
        _log.info("keys read again")
