"""Guests for tests, in WebAssembly's text."""

from tests.support.modules import wasi

TICKER = f"""(module
  {wasi("fd_write poll_oneoff")}
  (memory (export "memory") 1)
  (data (i32.const 256) "line 000000000\\0a")
  (func $count (local $at i32)
    (local.set $at (i32.const 269))
    (loop $carry
      (i32.store8 (local.get $at) (i32.add (i32.load8_u (local.get $at)) (i32.const 1)))
      (if (i32.gt_u (i32.load8_u (local.get $at)) (i32.const 57))
        (then
          (i32.store8 (local.get $at) (i32.const 48))
          (local.set $at (i32.sub (local.get $at) (i32.const 1)))
          (br $carry)))))
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 256))
    (i32.store (i32.const 4) (i32.const 15))
    (i32.store (i32.const 80) (i32.const 1))         ;; the monotonic clock,
    (i64.store (i32.const 88) (i64.const 2000000))   ;; two milliseconds
    (loop $next
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
      (call $count)
      (drop (call $poll_oneoff (i32.const 64) (i32.const 128) (i32.const 1) (i32.const 16)))
      (br $next))))"""
"""Writes `line 000000000` and so on, one every two milliseconds, for ever."""

TERMINALS = f"""(module
  {wasi("fd_fdstat_get fd_write")}
  (memory (export "memory") 1)
  (func $report (param $fd i32)
    (drop (call $fd_fdstat_get (local.get $fd) (i32.const 64)))
    (i32.store8 (i32.add (i32.const 32) (local.get $fd))
      (select (i32.const 84) (i32.const 45) (i32.eq (i32.load8_u (i32.const 64)) (i32.const 2)))))
  (func (export "_start")
    (call $report (i32.const 0)) (call $report (i32.const 1)) (call $report (i32.const 2))
    (i32.store8 (i32.const 35) (i32.const 10))
    (i32.store (i32.const 0) (i32.const 32))
    (i32.store (i32.const 4) (i32.const 4))
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))))"""
"""Writes for each of descriptors 0, 1 and 2 a T if it is a terminal, else a dash."""

STUCK_START = """(module (memory (export "memory") 1)
  (func $spin (loop $l (br $l))) (start $spin) (func (export "_start")))"""
"""Never gets to its first function."""

BURST = f"""(module
  {wasi("fd_write poll_oneoff")}
  (memory (export "memory") 1)
  (data (i32.const 256) "partial")
  (func $write (param $fd i32) (param $length i32)
    (i32.store (i32.const 4) (local.get $length))
    (drop (call $fd_write (local.get $fd) (i32.const 0) (i32.const 1) (i32.const 16))))
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 256))
    (call $write (i32.const 1) (i32.const 7))
    (call $write (i32.const 2) (i32.const 7))))"""
"""Writes `partial` without a line feed to stdout and stderr."""

COUNTER = f"""(module
  {wasi("fd_read proc_exit")}
  (memory (export "memory") 1)
  (func (export "_start") (local $total i32)
    (i32.store (i32.const 0) (i32.const 256))
    (i32.store (i32.const 4) (i32.const 4096))
    (loop $next
      (if (i32.eqz (call $fd_read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 16)))
        (then
          (local.set $total (i32.add (local.get $total) (i32.load (i32.const 16))))
          (br_if $next (i32.load (i32.const 16))))))
    (call $proc_exit (i32.rem_u (local.get $total) (i32.const 251)))))"""
"""Reads its input to the end; exits with how many bytes came, modulo 251."""
