"""The configuration file: every key, and what is wrong with one that makes no sense."""

from dataclasses import fields
from pathlib import Path

import pytest

from wasm_sandboxer.choices import EngineChoice, Isolation
from wasm_sandboxer.config import Config, LogFormat, LogLevel, load
from wasm_sandboxer.errors import InvalidArgument


@pytest.fixture
def file(tmp_path):
    return tmp_path / "config.toml"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("unknown = 1", "unknown key 'unknown'; known are compile_memory"),
        ("[table]\nx = 1", "unknown key 'table'"),
        ("workers = 'eight'", "workers must be a whole number, not 'eight'"),
        ("workers = true", "workers must be a whole number, not True"),
        ("workers = 0", "workers"),
        ("event_queue = 0", "event_queue"),
        ("listen = 3", "listen must be an absolute path, not 3"),
        ("log_level = 'loud'", "log_level must be one of debug, info, warning, error, not 'loud'"),
        ("listen = 'relative'", "listen must be an absolute path, not 'relative'"),
        ("log_level = 3", "log_level must be"),
        ("shutdown_timeout = 'soon'", "shutdown_timeout: 'soon' is not a duration"),
        ("shutdown_timeout = -1", "shutdown_timeout"),
        ("compile_memory = '1 potato'", "compile_memory: '1 potato' is not a size"),
        ("store_size = -1", "store_size"),
        ("lenient_limits = 'yes'", "lenient_limits must be true or false"),
        ("nice = 77", "nice"),
        ("metrics_listen = 9464", "metrics_listen must be an address, not 9464"),
        ("metrics_listen = '127.0.0.1'", "metrics_listen: '127.0.0.1' is not an address; write ADDR:PORT"),
        ("x = ", "not TOML"),
        ("\xff", "not TOML"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_place(file, settings, words):
    file.write_bytes(settings.encode("latin-1"))
    with pytest.raises(InvalidArgument) as refused:
        load(file)
    assert str(refused.value).startswith(f"{file}: ")
    assert words in str(refused.value)


def test_a_file_that_is_not_there_is_named(file):
    with pytest.raises(InvalidArgument, match=f"{file}: No such file"):
        load(file)


def test_an_empty_file_changes_nothing(file):
    file.write_text("")
    assert load(file) == Config()


def test_every_key_can_be_set(file):
    settings = """
        listen = "/nowhere/s.sock"
        task_listen = "/nowhere/t.sock"
        state = "/nowhere/state"
        metrics_listen = "[::1]:9464"
        root = "/nowhere/root"
        containerd = "/nowhere/c.sock"
        log_level = "error"
        log_format = "json"
        shutdown_timeout = "500ms"
        event_queue = 10
        workers = 2
        nice = 0
        default_memory = "64MiB"
        node_memory = "2g"
        isolation = "process"
        component_threads = true
        engine = "wasmtime"
        wasmedge = "/nowhere/wasmedge"
        wasmedge_plugins = "/nowhere/plugins"
        lenient_limits = true
        compile_memory = 1000000000
        compile_timeout = 30
        store_size = "1g"
    """
    file.write_text(settings)
    assert load(file) == Config(
        listen=Path("/nowhere/s.sock"),
        task_listen=Path("/nowhere/t.sock"),
        state=Path("/nowhere/state"),
        metrics_listen="[::1]:9464",
        root=Path("/nowhere/root"),
        containerd=Path("/nowhere/c.sock"),
        log_level=LogLevel.ERROR,
        log_format=LogFormat.JSON,
        shutdown_timeout=0.5,
        event_queue=10,
        workers=2,
        nice=0,
        default_memory=64 << 20,
        node_memory=2 << 30,
        isolation=Isolation.PROCESS,
        component_threads=True,
        engine=EngineChoice.WASMTIME,
        wasmedge=Path("/nowhere/wasmedge"),
        wasmedge_plugins=Path("/nowhere/plugins"),
        lenient_limits=True,
        compile_memory=1_000_000_000,
        compile_timeout=30.0,
        store_size=1 << 30,
    )
    assert {line.split()[0] for line in settings.strip().splitlines()} == {field.name for field in fields(Config)}
