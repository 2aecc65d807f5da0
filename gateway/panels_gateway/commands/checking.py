"""The command ``check-config``: what a gateway would say of its configuration, without one being started."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from panels_gateway.access.keys import load_keyring
from panels_gateway.bus.curve import load_curve_keys
from panels_gateway.bus.keyfile import load_bus_key
from panels_gateway.commands.parsing import Where, parse, parser
from panels_gateway.configuration.config import load
from panels_gateway.extensions import config as extensions
from panels_gateway.extensions.errors import ExtensionConfigError
from panels_shared.errors import ConfigError

_DESCRIPTION: Final = (
    "Reads what a gateway would read: options, variables, the file, keys and\nextensions. Says "
    "what is wrong, and makes and opens nothing. It takes all\noptions of panels-gateway."
)


def check_config(arguments: Sequence[str], where: Where) -> int:
    """Reads what a gateway with these ``arguments`` would read: options, keys and extensions. It makes
    nothing and opens no address, so it may be run beside a gateway. Raises ``ConfigError``.
    """
    if {"-h", "--help"} & set(arguments):
        parse(parser("check-config", _DESCRIPTION), ["--help"])
    config = load(arguments, where.environment, directory=where.directory)
    if config.auth.enabled:
        load_keyring(config.auth.secret_file, config.auth.jwks_file, config.auth.algorithms)
    load_curve_keys(config.workers)
    if config.workers.bus_key_file is not None:  # the one beside the socket is made when it is needed
        load_bus_key(config.workers)
    if config.waiting.extensions is not None:
        try:
            extensions.load(config.waiting.extensions)
        except ExtensionConfigError as exc:
            raise ConfigError(f"extensions: {exc}") from None
    for warning in config.warnings:
        print(f"panels-gateway: {warning}", file=sys.stderr)
    print("the configuration is good")
    return 0
