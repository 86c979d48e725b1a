"""How component.py puts modules into a frame."""

from types import ModuleType

import pytest
import wasmtime
import wasmtime.component

EMPTY = "(component (core module $one) (core module $two))"


def module(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(f"(module {text})"))


def test_gaps_are_filled_in_order(component: ModuleType) -> None:
    first, second = module("(memory 1)"), module('(func (export "f"))')
    built = component.build(EMPTY, [first, second])
    modules = [content for kind, content in component.sections(built) if kind == component.CORE_MODULE_SECTION]
    assert modules == [first, second]


def test_a_module_with_content_is_no_gap(component: ModuleType) -> None:
    frame = "(component (core module $own (memory 1)) (core module $gap))"
    big = module(f'(memory 1) (data (i32.const 0) "{"x" * 70_000}")')
    built = component.build(frame, [big])
    assert len(built) > 70_000
    wasmtime.component.Component(wasmtime.Engine(), built)


@pytest.mark.parametrize(("given", "told"), [(1, "more gaps than the 1 modules"), (3, "no gap for 1 of the 3")])
def test_gaps_and_modules_must_be_as_many(component: ModuleType, given: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        component.build(EMPTY, [module("")] * given)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 65536, 2**32 - 1])
def test_numbers_are_read_as_they_were_written(component: ModuleType, number: int) -> None:
    written = component.leb128(number)
    assert component.read_leb128(b"?" + written + b"?", 1) == (number, 1 + len(written))
