;; trap: ends in a trap of the kind asked for. Written by hand, because a C compiler is free to make of a
;; division by zero or an endless recursion whatever it likes; and with its names kept, so that the backtrace
;; says which function it was.
;;
;;     trap [unreachable]       an unreachable instruction was reached
;;     trap divide              integer division by zero
;;     trap bounds              a load behind the end of memory
;;     trap stack               a call too deep for the stack
;;     trap indirect            an indirect call of a function with another type
;;     trap integer-overflow    the least i32 divided by -1, which no i32 can hold
;;     trap conversion          not-a-number converted to an integer
;;
;; Any other argument: a line on stderr and exit code 2.

(module $trap
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))

  (memory (export "memory") 1)

  ;; The kinds, each ended by a zero byte, and the functions in the same order.
  (data (i32.const 0x100)
    "unreachable\00divide\00bounds\00stack\00indirect\00integer-overflow\00conversion\00")
  (table funcref
    (elem $unreachable $divide $bounds $stack $indirect $integer_overflow $conversion))

  ;; An iovec, and the text that it points to.
  (data (i32.const 0x80) "\90\00\00\00\31\00\00\00")
  (data (i32.const 0x90) "trap: no such kind of trap; see trap.wat for all\0a")

  (type $trap (func))

  (func $unreachable
    (unreachable))

  (func $divide
    (drop (i32.div_s (i32.const 1) (i32.const 0))))

  (func $bounds
    (drop (i32.load (i32.const 0x10000))))

  (func $stack
    (call $stack))

  (func $indirect
    (drop (call_indirect (param i64) (result i64) (i64.const 0) (i32.const 0))))

  (func $integer_overflow
    (drop (i32.div_s (i32.const 0x80000000) (i32.const -1))))

  (func $conversion
    (drop (i32.trunc_f32_s (f32.const nan))))

  ;; The number of the kind that the text names, from 0; past the last one when it names none.
  (func $find (param $text i32) (result i32)
    (local $number i32) (local $kind i32) (local $at i32)
    (local.set $kind (i32.const 0x100))
    (loop $next_kind
      (local.set $at (i32.const 0))
      (loop $next_letter
        (if (i32.eq
              (i32.load8_u (i32.add (local.get $kind) (local.get $at)))
              (i32.load8_u (i32.add (local.get $text) (local.get $at))))
          (then
            (if (i32.eqz (i32.load8_u (i32.add (local.get $kind) (local.get $at))))
              (then (return (local.get $number))))
            (local.set $at (i32.add (local.get $at) (i32.const 1)))
            (br $next_letter))))
      (local.set $number (i32.add (local.get $number) (i32.const 1)))
      (loop $skip
        (local.set $kind (i32.add (local.get $kind) (i32.const 1)))
        (br_if $skip (i32.load8_u (i32.sub (local.get $kind) (i32.const 1)))))
      (br_if $next_kind (i32.load8_u (local.get $kind))))
    (local.get $number))

  (func $complain
    (drop (call $fd_write (i32.const 2) (i32.const 0x80) (i32.const 1) (i32.const 0x88)))
    (call $proc_exit (i32.const 2)))

  ;; The arguments come to 0x1000 (pointers) and 0x2000 (texts): far more room than the host should need.
  (func $_start (export "_start")
    (local $number i32)
    (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
    (if (i32.gt_u (i32.load (i32.const 0)) (i32.const 1))
      (then
        (drop (call $args_get (i32.const 0x1000) (i32.const 0x2000)))
        (local.set $number (call $find (i32.load (i32.const 0x1004))))))
    (if (i32.ge_u (local.get $number) (table.size))
      (then (call $complain)))
    (call_indirect (type $trap) (local.get $number))))
