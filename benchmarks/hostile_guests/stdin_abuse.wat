;; Reads and polls its stdin without a pause: with room for nothing, and with hundreds of subscriptions at once.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 4)
  (data (i32.const 0) "\00\10\00\00\01\00\00\00")
  (func (export "_start")
    (local $at i32)
    (local.set $at (i32.const 65536))
    (loop $next  ;; 500 subscriptions to stdin, and a clock that is due at once
      (i32.store8 offset=8 (local.get $at) (i32.const 1))
      (local.set $at (i32.add (local.get $at) (i32.const 48)))
      (br_if $next (i32.lt_u (local.get $at) (i32.const 89536))))
    (i32.store offset=16 (local.get $at) (i32.const 1))
    (loop $again
      (drop (call $fd_read (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 16)))
      (drop (call $poll (i32.const 65536) (i32.const 131072) (i32.const 501) (i32.const 16)))
      (br $again))))
