;; Calls itself until the stack is full, which traps.
(module
  (memory (export "memory") 1)
  (func $deeper (param i64 i64 i64 i64) (result i64)
    (i64.add (local.get 0) (call $deeper (local.get 1) (local.get 2) (local.get 3) (i64.const 1))))
  (func (export "_start")
    (drop (call $deeper (i64.const 1) (i64.const 2) (i64.const 3) (i64.const 4)))))
