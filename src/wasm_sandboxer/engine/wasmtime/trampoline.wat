;; What a guest imports in place of the WASI functions that the shim implements: each calls through a table.
;;
;; The table breaks a circle. The guest needs these functions to be instantiated; the shim needs the guest's
;; memory, which exists only once the guest does. So the guest gets these, and the shim fills the table
;; afterwards, and only then is the guest's start function called (engine/starting.py). For a guest without the
;; shim they answer ENOSYS.
;;
;; proc_exit is implemented here, since the engine's own refuses codes from 126 on: the code is kept in a global
;; for the host, and the guest ends by a trap that the host knows from `exited` to be none.
(module $trampoline
  (type $i (func (param i32) (result i32)))
  (type $ii (func (param i32 i32) (result i32)))
  (type $iiii (func (param i32 i32 i32 i32) (result i32)))
  (type $open (func (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (table $shim (export "table") 8 8 funcref)
  (global $exited (export "exited") (mut i32) (i32.const 0))
  (global $code (export "exit_code") (mut i32) (i32.const 0))

  (func (export "proc_exit") (param $status i32)
    (global.set $code (local.get $status))
    (global.set $exited (i32.const 1))
    (unreachable))

  (func (export "poll_oneoff") (type $iiii)
    (if (ref.is_null (table.get $shim (i32.const 0))) (then (return (i32.const 52))))
    (call_indirect $shim (type $iiii)
      (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 0)))
  (func (export "fd_read") (type $iiii)
    (if (ref.is_null (table.get $shim (i32.const 1))) (then (return (i32.const 52))))
    (call_indirect $shim (type $iiii)
      (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 1)))
  (func (export "fd_write") (type $iiii)
    (if (ref.is_null (table.get $shim (i32.const 2))) (then (return (i32.const 52))))
    (call_indirect $shim (type $iiii)
      (local.get 0) (local.get 1) (local.get 2) (local.get 3) (i32.const 2)))
  (func (export "fd_fdstat_get") (type $ii)
    (if (ref.is_null (table.get $shim (i32.const 3))) (then (return (i32.const 52))))
    (call_indirect $shim (type $ii) (local.get 0) (local.get 1) (i32.const 3)))
  (func (export "fd_close") (type $i)
    (if (ref.is_null (table.get $shim (i32.const 4))) (then (return (i32.const 52))))
    (call_indirect $shim (type $i) (local.get 0) (i32.const 4)))
  (func (export "fd_renumber") (type $ii)
    (if (ref.is_null (table.get $shim (i32.const 5))) (then (return (i32.const 52))))
    (call_indirect $shim (type $ii) (local.get 0) (local.get 1) (i32.const 5)))
  (func (export "random_get") (type $ii)
    (if (ref.is_null (table.get $shim (i32.const 6))) (then (return (i32.const 52))))
    (call_indirect $shim (type $ii) (local.get 0) (local.get 1) (i32.const 6)))
  (func (export "path_open") (type $open)
    (if (ref.is_null (table.get $shim (i32.const 7))) (then (return (i32.const 52))))
    (call_indirect $shim (type $open)
      (local.get 0) (local.get 1) (local.get 2) (local.get 3) (local.get 4) (local.get 5) (local.get 6)
      (local.get 7) (local.get 8) (i32.const 7))))
