"""`run MODULE#FUNCTION`: arguments parsed to the parameters' types, results printed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cli import Cli, example

REACTOR = f"{example('reactor')}#"
ECHO = """(module
  (func (export "i32") (param i32) (result i32) (local.get 0))
  (func (export "i64") (param i64) (result i64) (local.get 0))
  (func (export "f32") (param f32) (result f32) (local.get 0))
  (func (export "f64") (param f64) (result f64) (local.get 0))
  (func (export "ref") (param externref))
  (func (export "none"))
  (func (export "gives-ref") (result externref) (ref.null extern)))"""
OFFERS = "; name one as MODULE#FUNCTION: u8, s64, flag, letter, real, word"
COMPONENT = """(component
  (core module $m
    (memory (export "memory") 1)
    (data (i32.const 16) "text")
    (func (export "id") (param i32) (result i32) (local.get 0))
    (func (export "id64") (param i64) (result i64) (local.get 0))
    (func (export "idf") (param f64) (result f64) (local.get 0))
    (func (export "word") (result i32)
      (i32.store (i32.const 0) (i32.const 16)) (i32.store (i32.const 4) (i32.const 4)) (i32.const 0)))
  (core instance $i (instantiate $m))
  (func (export "u8") (param "n" u8) (result u8) (canon lift (core func $i "id")))
  (func (export "s64") (param "n" s64) (result s64) (canon lift (core func $i "id64")))
  (func (export "flag") (param "on" bool) (result bool) (canon lift (core func $i "id")))
  (func (export "letter") (param "c" char) (result char) (canon lift (core func $i "id")))
  (func (export "real") (param "x" f64) (result f64) (canon lift (core func $i "idf")))
  (func (export "word") (result string) (canon lift (core func $i "word") (memory $i "memory"))))"""


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("modules") / "echo.wat"
    path.write_text(ECHO)
    return f"{path}#"


@pytest.fixture(scope="module")
def component(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("modules") / "typed.wat"
    path.write_text(COMPONENT)
    return f"{path}#"


def test_a_reactor_is_initialised_first(cli: Cli) -> None:
    assert cli("run", REACTOR + "counter").lines == ["40"]


def test_several_results_are_printed_one_a_line(cli: Cli) -> None:
    assert cli("run", REACTOR + "pair").lines == ["40", "1600"]


def test_a_function_without_results_prints_nothing(cli: Cli, echo: str) -> None:
    assert cli("run", echo + "none").stdout == b""


def test_a_reactor_without_a_function_is_only_initialised(cli: Cli) -> None:
    ended = cli("run", example("reactor"))
    assert (ended.code, ended.stdout, ended.stderr) == (0, b"", "")


def test_start_can_be_named_and_takes_the_arguments_as_a_program_does(cli: Cli) -> None:
    assert cli("run", f"{example('args')}#_start", "one").lines == ["argv[0]=args.wasm", "argv[1]=one"]


def test_a_trap_in_a_function_names_it(cli: Cli) -> None:
    ended = cli("run", REACTOR + "fail")
    assert ended.code == 134
    assert "0: reactor!fail" in ended.stderr


@pytest.mark.parametrize(
    ("function", "given", "printed"),
    [
        ("i32", "-2147483648", "-2147483648"), ("i32", "4294967295", "-1"), ("i32", "0x10", "16"),
        ("i32", "010", "10"), ("i32", "+7", "7"), ("i64", "-0X1f", "-31"),
        ("i64", "-9223372036854775808", "-9223372036854775808"), ("i64", "18446744073709551615", "-1"),
        ("f32", "0.1", "0.1"), ("f32", "-0", "-0.0"), ("f32", "inf", "inf"), ("f32", "16777217", "16777216.0"),
        ("f32", "3.4028235e38", "3.4028235e+38"), ("f32", "-3.4028235e38", "-3.4028235e+38"),
        ("f64", "0.1", "0.1"), ("f64", "1e308", "1e+308"), ("f64", "nan", "nan"), ("f64", "-inf", "-inf"),
        ("f64", "0x1.8p1", "3.0"), ("f64", "-.5", "-0.5"), ("f64", "1.e-3", "0.001"), ("f32", "+INF", "inf"),
    ],
)  # fmt: skip
def test_arguments_become_parameters_and_come_back(
    cli: Cli, echo: str, function: str, given: str, printed: str
) -> None:
    assert cli("run", echo + function, given).lines == [printed]


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        ("i32", [], "i32(i32) -> i32 takes 1 argument, 0 given"),
        ("i32", ["1", "2"], "i32(i32) -> i32 takes 1 argument, 2 given"),
        ("none", ["1"], "none() takes 0 arguments, 1 given"),
        ("i32", ["x"], "argument 1 of i32 must be i32, not 'x'"),
        ("i32", [""], "argument 1 of i32 must be i32, not ''"),
        ("i32", ["1.5"], "argument 1 of i32 must be i32, not '1.5'"),
        ("i32", ["4294967296"], "argument 1 of i32 must be i32, and 4294967296 does not fit into 32 bits"),
        ("i32", ["-2147483649"], "argument 1 of i32 must be i32, and -2147483649 does not fit into 32 bits"),
        ("i64", ["18446744073709551616"],
         "argument 1 of i64 must be i64, and 18446744073709551616 does not fit into 64 bits"),
        ("i64", ["9" * 5000], f"argument 1 of i64 must be i64, not '{'9' * 40}'"),
        ("f32", ["1e39"], "argument 1 of f32 must be f32, not '1e39'"),
        ("f32", ["1e400"], "argument 1 of f32 must be f32, not '1e400'"),
        ("f64", ["1e400"], "argument 1 of f64 must be f64, not '1e400'"),
        ("f64", ["one"], "argument 1 of f64 must be f64, not 'one'"),
        ("ref", ["1"], "argument 1 of ref is of type externref, which cannot be given as text"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_fit_are_refused(
    cli: Cli, echo: str, function: str, arguments: list[str], said: str
) -> None:
    assert cli.refused("run", echo + function, *arguments) == f"{echo[:-1]}: {said}"


@pytest.mark.parametrize("given", [" 5 ", "٣", "0b1"])
def test_core_modules_and_components_refuse_the_same_numbers(cli: Cli, echo: str, component: str, given: str) -> None:
    for function, kind in ((f"{echo}i32", "i32"), (f"{component}u8", "u8"), (f"{component}real", "f64")):
        assert cli.refused("run", function, given).endswith(f" must be {kind}, not {given!r}")


@pytest.mark.parametrize("of", ["core", "component"])
def test_a_result_that_cannot_be_written_is_an_error(cli: Cli, echo: str, component: str, of: str) -> None:
    function = f"{echo}i32" if of == "core" else f"{component}u8"
    with Path("/dev/full").open("wb") as full:
        ended = cli("run", function, "5", stdout=full)
    assert ended.code == 1
    assert ended.stderr.endswith(": its result cannot be written: No space left on device\n")
    assert len(ended.stderr.splitlines()) == 1


def test_a_result_that_is_no_number_is_named(cli: Cli, echo: str) -> None:
    assert cli("run", echo + "gives-ref").lines == ["(externref)"]


def test_an_unknown_function_is_refused_with_those_that_exist(cli: Cli) -> None:
    assert cli.refused("run", REACTOR + "none") == (
        f"{REACTOR[:-1]}: it exports no function 'none'; "
        "name one as MODULE#FUNCTION: add, counter, scale, wide, pair, fail"
    )


def test_an_export_that_is_no_function_is_refused(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat('(module (memory (export "memory") 1))')
    assert cli.refused("run", f"{path}#memory") == (
        f"{path}: it exports no function 'memory'; it exports no function at all"
    )


def test_a_library_without_a_function_is_refused_with_what_it_exports(cli: Cli, echo: str) -> None:
    assert cli.refused("run", echo[:-1]) == (
        f"{echo[:-1]}: it has no _start to run; name one as MODULE#FUNCTION: i32, i64, f32, f64, ref, none, gives-ref"
    )


def test_a_start_with_parameters_is_no_command(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat('(module (func (export "_start") (param i32)))')
    assert cli.refused("run", path) == f"{path}: its _start takes parameters, so it is no WASI command"


@pytest.mark.parametrize(
    ("function", "arguments", "printed"),
    [
        ("u8", ["255"], "255"), ("s64", ["-5"], "-5"), ("flag", ["true"], "true"), ("flag", ["false"], "false"),
        ("letter", ["ä"], "ä"), ("real", ["0.5"], "0.5"), ("u8", ["010"], "10"),
        ("u8", ["0x1F"], "31"), ("real", ["-0x1p-1"], "-0.5"), ("word", [], "text"),
    ],
)  # fmt: skip
def test_a_components_function_is_called(
    cli: Cli, component: str, function: str, arguments: list[str], printed: str
) -> None:
    assert cli("run", component + function, *arguments).lines == [printed]


@pytest.mark.parametrize(
    ("function", "arguments", "said"),
    [
        ("u8", [], "u8: func (n: u8) -> u8 takes 1 argument, 0 given"),
        ("u8", ["256"], "argument n of u8 must be u8, from 0 to 255, not 256"),
        ("u8", ["-1"], "argument n of u8 must be u8, from 0 to 255, not -1"),
        ("u8", ["x"], "argument n of u8 must be u8, not 'x'"),
        ("flag", ["yes"], "argument on of flag must be true or false, not 'yes'"),
        ("letter", ["ab"], "argument c of letter must be one character, not 'ab'"),
        ("real", ["x"], "argument x of real must be f64, not 'x'"),
        ("none", [], f"it exports no function 'none'{OFFERS}"),
    ],
)  # fmt: skip
def test_a_components_arguments_that_do_not_fit_are_refused(
    cli: Cli, component: str, function: str, arguments: list[str], said: str
) -> None:
    assert cli.refused("run", component + function, *arguments) == f"{component[:-1]}: {said}"


def test_a_component_that_is_no_command_needs_a_function(cli: Cli, component: str) -> None:
    assert cli.refused("run", component[:-1]) == (f"{component[:-1]}: it exports no wasi:cli/run{OFFERS}")


def test_a_components_function_in_an_interface_is_named_with_it(cli: Cli) -> None:
    ended = cli("run", f"{example('hello-component')}#wasi:cli/run@0.2.0#run")
    assert (ended.code, ended.lines[0]) == (0, "Hello from a component!")


def test_an_initialiser_with_parameters_is_none(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat('(module (func (export "_initialize") (param i32)) (func (export "f")))')
    for name in ("", "#f", "#_initialize"):
        assert cli.refused("run", f"{path}{name}") == (
            f"{path}: its _initialize takes parameters, so it is no WASI reactor"
        )


def test_a_trap_in_an_initialiser_is_one(cli: Cli, wat: Callable[..., Path]) -> None:
    path = wat('(module (func (export "_initialize") unreachable) (func (export "f")))')
    assert cli("run", f"{path}#f").code == 134
