;; Takes all the memory it gets, writes into all of it, and goes on writing when there is no more.
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (loop $again
      (drop (memory.grow (i32.const 256)))
      (memory.fill (i32.const 0) (i32.const 1) (i32.mul (i32.sub (memory.size) (i32.const 1)) (i32.const 65536)))
      (br $again))))
