"""The parameters of a method, and the way from JSON to them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, get_type_hints

import msgspec

from panels_gateway.extensions.errors import CallFailedError, ErrorCode, ExtensionConfigError
from panels_shared import jsonvalue
from panels_shared.errors import InvalidJsonError

_PATH = re.compile(r"`\$\.?")


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a method takes. ``positional`` and ``options`` are names as handlers spell them, in order.

    ``struct`` has a field for each under Python's name, and does the validation.
    """

    positional: tuple[str, ...]
    options: frozenset[str]
    struct: type[msgspec.Struct]

    def bind(self, text: bytes) -> dict[str, Any]:
        """The arguments by Python name, without those that were left out.

        Raises ``CallFailedError`` with the place.
        """
        values = self._by_name(_decoded(text))
        try:
            bound = msgspec.convert(values, self.struct)
        except msgspec.ValidationError as exc:
            raise CallFailedError(ErrorCode.ARGUMENTS, _problem(exc)) from None
        given = {
            field.name
            for field in msgspec.structs.fields(self.struct)
            if field.encode_name in values or field.required
        }
        return {name: getattr(bound, name) for name in self.struct.__struct_fields__ if name in given}

    def _by_name(self, arguments: Any) -> dict[str, Any]:
        if isinstance(arguments, dict):
            return arguments
        if not isinstance(arguments, list):
            raise CallFailedError(
                ErrorCode.ARGUMENTS, "expected a list of arguments, or one object of them by name"
            )
        count = len(self.positional)
        values = dict(zip(self.positional, arguments, strict=False))
        rest = arguments[count:]
        if self.options and rest and (rest[0] is None or isinstance(rest[0], dict)):
            values.update(self._options(rest[0] or {}))
            rest = rest[1:]
        elif self.options and rest:
            raise CallFailedError(
                ErrorCode.ARGUMENTS,
                f"expected an object of options as argument {count + 1}, got another type",
            )
        if rest:
            most = count + bool(self.options)
            raise CallFailedError(
                ErrorCode.ARGUMENTS, f"expected at most {most} arguments, got {len(arguments)}"
            )
        return values

    def _options(self, options: dict[str, Any]) -> dict[str, Any]:
        for name in options:
            if name not in self.options:
                known = ", ".join(sorted(self.options))
                raise CallFailedError(
                    ErrorCode.ARGUMENTS, f"expected an option of {known}, got `{name[:64]}`"
                )
        return options


def _decoded(text: bytes) -> Any:
    try:
        return jsonvalue.decode(text)
    except InvalidJsonError as exc:
        raise CallFailedError(ErrorCode.ARGUMENTS, exc.problem) from None


def _problem(exc: msgspec.ValidationError) -> str:
    text = _PATH.sub("`", str(exc))
    # what lies deeper is a field of something, and only this struct's fields are parameters
    return text if " - at " in text else text.replace("field `", "parameter `")


def parameters_of(where: str, function: Callable[..., Awaitable[Any]]) -> Parameters:
    """What a bound method takes after its context.

    Raises ``ExtensionConfigError`` that begins with ``where``.
    """
    if not inspect.iscoroutinefunction(function):
        raise ExtensionConfigError(f"{where}: expected an async method")
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as exc:
        raise ExtensionConfigError(f"{where}: cannot resolve its annotations: {exc}") from None
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].kind not in (
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    ):
        raise ExtensionConfigError(f"{where}: expected the call's context as its first parameter")
    return _parameters(where, parameters[1:], hints)


def _parameters(where: str, parameters: Sequence[inspect.Parameter], hints: dict[str, Any]) -> Parameters:
    fields: list[Any] = []
    for parameter in parameters:
        if parameter.kind not in (
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.KEYWORD_ONLY,
        ):
            raise ExtensionConfigError(
                f"{where}: {parameter.name}: expected a plain or keyword-only parameter"
            )
        if parameter.name not in hints:
            raise ExtensionConfigError(f"{where}: {parameter.name}: expected a type annotation")
        annotation = hints[parameter.name]
        if parameter.default is inspect.Parameter.empty:
            fields.append((parameter.name, annotation))
        else:
            # the function supplies its own default; this one only makes the field optional
            fields.append((parameter.name, annotation, msgspec.field(default=None)))
    try:
        struct = msgspec.defstruct(
            "Arguments", fields, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"
        )
        # the types of fields are looked at when one is first used
        with suppress(msgspec.ValidationError):
            msgspec.convert({}, struct)
    except TypeError as exc:
        raise ExtensionConfigError(f"{where}: {exc}") from None
    encoded = {field.name: field.encode_name for field in msgspec.structs.fields(struct)}
    return Parameters(
        tuple(encoded[p.name] for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD),
        frozenset(encoded[p.name] for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY),
        struct,
    )
