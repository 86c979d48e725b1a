;; Opens files until it may not, closes some, and goes on.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 80) "spin.wasm")
  (func (export "_start")
    (local $closed i32)
    (local.set $closed (i32.const 4))
    (loop $again
      (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 80) (i32.const 9) (i32.const 0)
            (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 96))
        (then
          (drop (call $fd_close (local.get $closed)))
          (local.set $closed (i32.add (local.get $closed) (i32.const 1)))))
      (br $again))))
