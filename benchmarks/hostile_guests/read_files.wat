;; Reads a file from its beginning, again and again, 60 KB at a time.
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_pread" (func $fd_pread (param i32 i32 i32 i64 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "\00\10\00\00\60\ea\00\00")
  (data (i32.const 80) "spin.wasm")
  (func (export "_start")
    (if (call $path_open (i32.const 3) (i32.const 0) (i32.const 80) (i32.const 9) (i32.const 0)
          (i64.const 6) (i64.const 0) (i32.const 0) (i32.const 96))
      (then (unreachable)))
    (loop $again
      (drop (call $fd_pread (i32.load (i32.const 96)) (i32.const 0) (i32.const 1) (i64.const 0) (i32.const 100)))
      (br $again))))
