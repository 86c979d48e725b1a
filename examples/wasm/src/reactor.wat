;; reactor: a module that is not a program but a set of functions to call. It has no `_start`; `_initialize`
;; is called once before anything else.
;;
;;     _initialize()               sets the counter to 40
;;     add(i32, i32) -> i32        the sum
;;     counter() -> i32            the counter, which is then one more: what a call leaves behind, the next sees
;;     scale(f64, f32) -> f64      the product
;;     wide(i64) -> i64            the number with its upper and lower 32 bits exchanged
;;     pair() -> (i32, i64)        two results: the counter and its square
;;     fail()                      traps

(module $reactor
  (global $counter (mut i32) (i32.const 0))

  (func (export "_initialize")
    (global.set $counter (i32.const 40)))

  (func (export "add") (param $a i32) (param $b i32) (result i32)
    (i32.add (local.get $a) (local.get $b)))

  (func (export "counter") (result i32)
    (global.get $counter)
    (global.set $counter (i32.add (global.get $counter) (i32.const 1))))

  (func (export "scale") (param $number f64) (param $factor f32) (result f64)
    (f64.mul (local.get $number) (f64.promote_f32 (local.get $factor))))

  (func (export "wide") (param $number i64) (result i64)
    (i64.rotl (local.get $number) (i64.const 32)))

  (func (export "pair") (result i32 i64)
    (global.get $counter)
    (i64.mul (i64.extend_i32_s (global.get $counter)) (i64.extend_i32_s (global.get $counter))))

  (func $fail (export "fail")
    (unreachable)))
