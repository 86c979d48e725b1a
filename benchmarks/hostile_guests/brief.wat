;; Computes for about a millisecond and ends: with a quota of a millisecond it is held just when it ends.
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (local $rounds i32)
    (local.set $rounds (i32.const 700000))
    (loop $next
      (local.set $rounds (i32.sub (local.get $rounds) (i32.const 1)))
      (br_if $next (local.get $rounds)))))
