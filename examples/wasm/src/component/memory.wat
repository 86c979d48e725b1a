;; The memory of a component, as a module of its own. A component's program imports it. So the host's calls,
;; which write into that memory, can be made before there is a program: without it each would need the other
;; first.
;;
;; The program owns the first two pages: its stack and its data. What the host hands over (lists, strings)
;; comes behind them, one after the other, and is never freed: enough for programs that ask once.

(module $memory
  (memory (export "memory") 2)
  (global $free (mut i32) (i32.const 0x20000))

  ;; cabi_realloc of the canonical ABI: new room of that size and alignment, with what stood at $old in it.
  (func (export "realloc")
    (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $new i32)
    (local.set $new
      (i32.and
        (i32.add (global.get $free) (i32.sub (local.get $align) (i32.const 1)))
        (i32.sub (i32.const 0) (local.get $align))))
    (global.set $free (i32.add (local.get $new) (local.get $size)))
    (block $enough
      (loop $grow
        (br_if $enough (i32.le_u (global.get $free) (i32.mul (memory.size) (i32.const 0x10000))))
        (br_if $grow (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
      (unreachable))
    (memory.copy (local.get $new) (local.get $old) (local.get $old_size))
    (local.get $new)))
