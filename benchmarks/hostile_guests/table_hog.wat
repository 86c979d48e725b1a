;; Grows its tables as far as it may, and fills them for ever.
(module
  (table $one 1 funcref)
  (table $two 1 externref)
  (memory (export "memory") 1)
  (func $f)
  (elem declare func $f)
  (func (export "_start")
    (loop $again
      (drop (table.grow $one (ref.func $f) (i32.const 4096)))
      (drop (table.grow $two (ref.null extern) (i32.const 4096)))
      (table.fill $one (i32.const 0) (ref.func $f) (table.size $one))
      (br $again))))
