"""The command line: one file a verb, imported when its verb is called.

Only this package prints. Whatever is wrong with the input ends as one line on stderr and exit code 2.
"""

import importlib
import os
import sys
from typing import Any, NoReturn

import click

from wasm_sandboxer import __version__
from wasm_sandboxer.cli import interrupts, output
from wasm_sandboxer.errors import WasmSandboxerError

PROGRAM = "wasm-sandboxer"
FAILED = 1
BAD_INPUT = 2
INTERNAL_ERROR = 70  # EX_SOFTWARE, sysexits.h
_VERBS = {
    "run": "run:run",
    "inspect": "inspect:inspect",
    "compile": "compile:compile_modules",
    "modules": "modules:modules",
    "serve": "serve:serve",
    "ps": "ps:ps",
    "show": "show:show",
    "kill": "kill:kill",
    "stats": "stats:stats",
    "containerd-config": "containerd_config:containerd_config",
    "doctor": "doctor:doctor",
}


class _Verbs(click.Group):
    """Finds verbs by name, so that one verb's imports do not cost the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in _VERBS:
            return None
        module, _, name = _VERBS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        return command


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001
    if not value or ctx.resilient_parsing:
        return
    from wasm_sandboxer.engine.wasmtime.binding import VERSION  # noqa: PLC0415  # costs too much for --help

    click.echo(f"{PROGRAM} {__version__} (wasmtime {VERSION})")
    ctx.exit()


@click.command(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
              help="Show the version and the engine's, and exit.")  # fmt: skip
def cli() -> None:
    """Run WebAssembly sandboxed: programs here, containers for containerd."""


def main() -> NoReturn:
    """Run the verb that the arguments name."""
    interrupts.install()
    _fill_closed_streams()
    output.install()
    sys.exit(_run_cli(sys.argv[1:]))


def _fill_closed_streams() -> None:
    """Open /dev/null for each of 0, 1, 2 that is closed: no file of ours may become a guest's stream."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def _run_cli(arguments: list[str]) -> int:  # noqa: PLR0911  # one for each way to end
    try:
        result: Any = cli.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):  # click makes the one of the other
        return interrupts.exit_code()
    except click.exceptions.NoArgsIsHelpError as error:
        output.tell(error.format_message())
        return BAD_INPUT
    except click.ClickException as error:
        verb = getattr(getattr(error, "ctx", None), "command_path", PROGRAM)
        return complain(f"{error.format_message().rstrip('.')} (see {verb} --help)")
    except WasmSandboxerError as error:
        return complain(str(error))
    except BrokenPipeError:
        output.abandon()
        return 141
    except output.OutputFailed as error:
        output.abandon()
        complain(f"the output cannot be written: {error.strerror}")
        return FAILED
    except Exception as error:  # a bug of ours: still one line, and the way to see more
        if os.environ.get("WASM_SANDBOXER_DEBUG"):
            raise
        complain(f"internal error: {type(error).__name__}: {error} (set WASM_SANDBOXER_DEBUG=1 to see where)")
        return INTERNAL_ERROR
    return result if isinstance(result, int) else 0


def complain(message: str) -> int:
    """Say in one line what is wrong; the exit code that goes with it."""
    output.tell(f"{PROGRAM}: {one_line(message)}")
    return BAD_INPUT


def one_line(text: str) -> str:
    """Text from anywhere as one line that a terminal only shows: names in a module may hold what commands it."""
    return "".join(
        letter if letter.isprintable() else " " if letter == "\n" else letter.encode("unicode_escape").decode()
        for letter in text
    )
