"""The extensions there are: found by entry point or by name, checked once, and looked up by call."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Any, Final

from panels_gateway.extensions.arguments import Parameters, parameters_of
from panels_gateway.extensions.config import ExtensionsConfig
from panels_gateway.extensions.errors import CallFailedError, ErrorCode, ExtensionConfigError
from panels_gateway.extensions.extension import (
    DECLARATION,
    NAME_PATTERN,
    Extension,
    Interceptor,
    MethodOptions,
)
from panels_gateway.extensions.messages import MAX_METHODS, MethodInfo

ENTRY_POINTS: Final = "panels.extensions"


@dataclass(frozen=True, slots=True)
class Method:
    """A method that handlers can call."""

    function: Callable[..., Awaitable[Any]]
    parameters: Parameters
    options: MethodOptions


class Registry:
    """Extensions by name.

    Raises ``ExtensionConfigError`` for two of one name, and for methods that cannot be called.
    """

    def __init__(self, extensions: Iterable[Extension]) -> None:
        self.extensions: Sequence[Extension] = tuple(extensions)
        self._methods: dict[str, dict[str, Method]] = {}
        for extension in self.extensions:
            if not NAME_PATTERN.fullmatch(extension.name):
                raise ExtensionConfigError(
                    f"{type(extension).__qualname__}: expected a name of letters, digits and "
                    f"_, got {extension.name!r}"
                )
            if extension.name in self._methods:
                raise ExtensionConfigError(f"expected one extension of the name {extension.name}, got two")
            self._methods[extension.name] = _methods_of(extension)
        if sum(map(len, self._methods.values())) > MAX_METHODS:
            raise ExtensionConfigError(f"expected at most {MAX_METHODS} methods in all")

    def find(self, extension: str, method: str) -> Method:
        """The method of that name. Raises ``CallFailedError``."""
        if extension not in self._methods:
            raise CallFailedError(ErrorCode.UNKNOWN, f"there is no extension {extension[:64]!r}")
        if method not in self._methods[extension]:
            raise CallFailedError(
                ErrorCode.METHOD_UNKNOWN, f"the extension {extension} has no method {method[:64]!r}"
            )
        return self._methods[extension][method]

    def infos(self) -> list[MethodInfo]:
        """What the gateway needs to know of every method."""
        return [
            MethodInfo(
                extension,
                name,
                method.options.timeout_s,
                method.options.concurrency,
                method.options.repeatable,
            )
            for extension, methods in self._methods.items()
            for name, method in methods.items()
        ]


def _methods_of(extension: Extension) -> dict[str, Method]:
    methods: dict[str, Method] = {}
    for attribute in dir(type(extension)):
        function = getattr(type(extension), attribute)
        options = getattr(function, DECLARATION, None)
        if not isinstance(options, MethodOptions):
            continue
        name = options.name or attribute
        where = f"{extension.name}.{name}"
        if not NAME_PATTERN.fullmatch(name) or name in methods:
            raise ExtensionConfigError(f"{where}: expected one method of a name of letters, digits and _")
        bound = getattr(extension, attribute)
        methods[name] = Method(bound, parameters_of(where, bound), options)
    return methods


def discover(config: ExtensionsConfig) -> list[Extension]:
    """The extensions that ``config`` names, and those of installed packages. Raises ``ExtensionConfigError``.

    An exception while a module is imported is an error of the configuration as well: a half-loaded set of
    extensions would fail handlers one by one instead of the operator once.
    """
    found = [_extension(name, load(name)) for name in config.extensions]
    if config.entry_points:
        points = metadata.entry_points(group=ENTRY_POINTS)
        found += [_extension(point.value, _loaded(point.value, point.load)) for point in points]
    return found


def interceptors_of(config: ExtensionsConfig) -> list[Interceptor]:
    """The interceptors that ``config`` names. Raises ``ExtensionConfigError``."""
    found: list[Interceptor] = []
    for name in config.interceptors:
        interceptor = load(name)
        if not inspect.iscoroutinefunction(interceptor) and not inspect.iscoroutinefunction(
            getattr(interceptor, "__call__", None)  # noqa: B004 - asks how it is called, not whether
        ):
            raise ExtensionConfigError(f"{name}: expected an async function")
        found.append(interceptor)
    return found


def load(name: str) -> Any:
    """What ``module:attribute`` names. Raises ``ExtensionConfigError``."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ExtensionConfigError(f"expected module:attribute, got {name!r}")

    def resolve() -> Any:
        value: Any = import_module(module)
        for part in attribute.split("."):
            value = getattr(value, part)
        return value

    return _loaded(name, resolve)


def _loaded(name: str, resolve: Callable[[], Any]) -> Any:
    try:
        return resolve()
    except Exception as exc:
        raise ExtensionConfigError(f"{name}: cannot be loaded: {type(exc).__name__}: {exc}") from exc


def _extension(name: str, value: Any) -> Extension:
    if isinstance(value, type) and issubclass(value, Extension):
        value = _loaded(name, value)
    if not isinstance(value, Extension):
        raise ExtensionConfigError(
            f"{name}: expected an Extension or a class of one, got {type(value).__name__}"
        )
    return value
