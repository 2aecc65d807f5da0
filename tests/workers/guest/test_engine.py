from __future__ import annotations

import pytest
import wasmtime

from panels_worker.guest.engine import _OFF, EPOCH_TICK_MS, make_engine, ticks
from tests.workers.builders import ENGINE


def test_engine_switches_off_only_features_that_wasmtime_knows() -> None:
    for name in _OFF:
        assert isinstance(getattr(wasmtime.Config, name, None), property), name


@pytest.mark.parametrize(
    "source",
    [
        "(module (memory 1) (memory 1))",
        "(module (memory i64 1))",
        "(module (memory 1 1 shared))",
        "(module (func (result v128) (v128.const i64x2 0 0)))",
        "(module (type (struct)))",
        "(module (tag))",
        "(module (func $f (return_call $f)))",
        "(module (func (param (ref func))))",
        "(component)",
    ],
)
def test_engine_refuses_features_that_are_off(source: str) -> None:
    with pytest.raises(wasmtime.WasmtimeError):
        wasmtime.Module(ENGINE, source)


def test_ticks_never_end_a_job_early() -> None:
    assert ticks(1) == 2
    assert ticks(EPOCH_TICK_MS) == 2
    assert ticks(EPOCH_TICK_MS + 1) == 3


def test_make_engine_can_be_called_for_a_second_process_only() -> None:
    # two engines in one process are made here alone, to see that artifacts of one load in the other
    artifact = wasmtime.Module(ENGINE, "(module)").serialize()
    wasmtime.Module.deserialize(make_engine(), artifact)
