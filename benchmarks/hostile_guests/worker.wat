;; The well-behaved guest: computes some milliseconds, reads a small file, writes a byte to stdout, again and again.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\40\00\00\00\01\00\00\00")    ;; iovec: one byte at 64
  (data (i32.const 8) "\00\10\00\00\00\02\00\00")    ;; iovec: 512 bytes at 4096
  (data (i32.const 64) ".")
  (data (i32.const 80) "spin.wasm")
  (func $work
    (local $rounds i32)
    (local $value i64)
    (local.set $rounds (i32.const 4000000))
    (loop $next
      (local.set $value (i64.add (i64.mul (local.get $value) (i64.const 6364136223846793005)) (i64.const 1)))
      (local.set $rounds (i32.sub (local.get $rounds) (i32.const 1)))
      (br_if $next (local.get $rounds)))
    (i64.store (i32.const 128) (local.get $value)))
  (func (export "_start")
    (loop $again
      (call $work)
      (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 80) (i32.const 9) (i32.const 0)
            (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 96))
        (then (unreachable)))
      (if (call $fd_read (i32.load (i32.const 96)) (i32.const 8) (i32.const 1) (i32.const 100))
        (then (unreachable)))
      (if (call $fd_close (i32.load (i32.const 96))) (then (unreachable)))
      (if (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100)) (then (unreachable)))
      (br $again))))
