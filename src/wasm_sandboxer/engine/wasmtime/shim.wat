;; WASI preview 1 for a guest that can be stopped: what may wait, waits here.
;;
;; Everything else goes to the engine's own implementation, imported as `wasi_snapshot_preview1`. Waiting, and
;; reading and writing the standard descriptors, are system calls made by two host functions of machine code
;; (thunks.py), so a waiting guest holds no lock, no GIL and no thread but its own. The daemon stops it by the
;; engine's epoch and a signal: the system call ends with EINTR, the loop around it comes to the epoch check,
;; and there the guest ends. So every EINTR here goes round a loop.
;;
;; This module re-exports the guest's memory, because the engine's functions work on the memory of their caller.
;; Errno, layouts and rights: WASI preview 1 (witx/wasi_snapshot_preview1); Linux errno: asm-generic/errno.h.
(module $shim
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $native_poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $native_fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $native_fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_fdstat_get" (func $native_fd_fdstat_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $native_fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_renumber" (func $native_fd_renumber (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $native_random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get"
    (func $native_clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $native_path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get"
    (func $native_path_filestat_get (param i32 i32 i32 i32 i32) (result i32)))
  (import "guest" "memory" (memory $guest 0))
  (import "host" "transfer" (func $transfer (param i32 i32 i32 i32) (result i64)))
  (import "host" "wait" (func $wait (param i32 i64 i64) (result i64)))
  (import "host" "count" (func $count (param i32) (result i32)))
  (import "host" "flags" (global $flags i32))  ;; bits 0-2: descriptor n is a terminal; 3-5: n is served here;
  (import "trampoline" "table" (table $table 8 8 funcref))
  (export "memory" (memory $guest))
  (elem (table $table) (i32.const 0) func
    $poll_oneoff $fd_read $fd_write $fd_fdstat_get $fd_close $fd_renumber $random_get
    $path_open)

  ;; The numbers at which the guest has its stdin, stdout and stderr; -1 for one that is not served or closed.
  (global $stdin (mut i32) (i32.const -1))
  (global $stdout (mut i32) (i32.const -1))
  (global $stderr (mut i32) (i32.const -1))
  (func (export "begin")
    (if (i32.and (global.get $flags) (i32.const 8)) (then (global.set $stdin (i32.const 0))))
    (if (i32.and (global.get $flags) (i32.const 16)) (then (global.set $stdout (i32.const 1))))
    (if (i32.and (global.get $flags) (i32.const 32)) (then (global.set $stderr (i32.const 2)))))

  ;; Which of them a descriptor is: 0, 1, 2, or -1 for none.
  (func $standard (param $fd i32) (result i32)
    (if (i32.lt_s (local.get $fd) (i32.const 0)) (then (return (i32.const -1))))
    (if (i32.eq (local.get $fd) (global.get $stdin)) (then (return (i32.const 0))))
    (if (i32.eq (local.get $fd) (global.get $stdout)) (then (return (i32.const 1))))
    (if (i32.eq (local.get $fd) (global.get $stderr)) (then (return (i32.const 2))))
    (i32.const -1))

  (func $move (param $which i32) (param $to i32)
    (if (i32.eq (local.get $which) (i32.const 0)) (then (global.set $stdin (local.get $to))))
    (if (i32.eq (local.get $which) (i32.const 1)) (then (global.set $stdout (local.get $to))))
    (if (i32.eq (local.get $which) (i32.const 2)) (then (global.set $stderr (local.get $to)))))

  ;; Whether `length` bytes at `pointer` lie inside the guest's memory.
  (func $inside (param $pointer i32) (param $length i64) (result i32)
    (i64.le_u
      (i64.add (i64.extend_i32_u (local.get $pointer)) (local.get $length))
      (i64.shl (i64.extend_i32_u (memory.size $guest)) (i64.const 16))))

  ;; ---- descriptors ----

  ;; The engine calls our standard descriptors "unknown"; a terminal is a character device that cannot seek or
  ;; tell, which is what isatty() looks at.
  (func $fd_fdstat_get (param $fd i32) (param $stat i32) (result i32)
    (local $errno i32)
    (local $which i32)
    (local.set $errno (call $native_fd_fdstat_get (local.get $fd) (local.get $stat)))
    (local.set $which (call $standard (local.get $fd)))
    (if (i32.or (local.get $errno) (i32.lt_s (local.get $which) (i32.const 0)))
      (then (return (local.get $errno))))
    (if (i32.and (i32.shr_u (global.get $flags) (local.get $which)) (i32.const 1))
      (then
        (i32.store8 (local.get $stat) (i32.const 2))
        (i64.store offset=8 (local.get $stat)
          (i64.and (i64.load offset=8 (local.get $stat)) (i64.const -37)))))  ;; without FD_SEEK, FD_TELL
    (i32.const 0))

  (func $fd_close (param $fd i32) (result i32)
    (local $errno i32)
    (local.set $errno (call $native_fd_close (local.get $fd)))
    (if (i32.eqz (local.get $errno))
      (then
        (call $move (call $standard (local.get $fd)) (i32.const -1))
        (call $give_back)))
    (local.get $errno))

  ;; How many files the guest has opened and not closed; each takes a descriptor of the process that all guests
  ;; share, and is charged. One it was given and closes counts as one it opened: it may have that many more then.
  (global $opened (mut i32) (i32.const 0))

  (func $give_back
    (if (global.get $opened)
      (then
        (global.set $opened (i32.sub (global.get $opened) (i32.const 1)))
        (drop (call $count (i32.const -1))))))

  ;; Whether a path leads to a FIFO, which the engine calls unknown, or a socket. Opening a FIFO waits for whoever opens
  ;; its other end, on one of the few threads that the engine has for all guests' files, and nothing ends that. It
  ;; would be of no use: the engine reads and writes at offsets, which a FIFO has none of. The answer comes into the
  ;; guest's memory, whose first bytes are put back.
  (func $is_fifo (param $fd i32) (param $flags i32) (param $path i32) (param $length i32) (result i32)
    (local $a i64) (local $b i64) (local $c i64) (local $d i64)
    (local $e i64) (local $f i64) (local $g i64) (local $h i64)
    (local $kind i32)
    (if (i32.eqz (memory.size $guest)) (then (return (i32.const 0))))
    (local.set $a (i64.load offset=0 (i32.const 0)))
    (local.set $b (i64.load offset=8 (i32.const 0)))
    (local.set $c (i64.load offset=16 (i32.const 0)))
    (local.set $d (i64.load offset=24 (i32.const 0)))
    (local.set $e (i64.load offset=32 (i32.const 0)))
    (local.set $f (i64.load offset=40 (i32.const 0)))
    (local.set $g (i64.load offset=48 (i32.const 0)))
    (local.set $h (i64.load offset=56 (i32.const 0)))
    (local.set $kind (i32.const 4))  ;; where there is nothing yet, a file comes to be
    (if (i32.eqz (call $native_path_filestat_get
          (local.get $fd) (local.get $flags) (local.get $path) (local.get $length) (i32.const 0)))
      (then (local.set $kind (i32.load8_u offset=16 (i32.const 0)))))
    (i64.store offset=0 (i32.const 0) (local.get $a))
    (i64.store offset=8 (i32.const 0) (local.get $b))
    (i64.store offset=16 (i32.const 0) (local.get $c))
    (i64.store offset=24 (i32.const 0) (local.get $d))
    (i64.store offset=32 (i32.const 0) (local.get $e))
    (i64.store offset=40 (i32.const 0) (local.get $f))
    (i64.store offset=48 (i32.const 0) (local.get $g))
    (i64.store offset=56 (i32.const 0) (local.get $h))
    ;; filetype: 0 unknown, 5 and 6 sockets
    (i32.or (i32.eqz (local.get $kind))
      (i32.or (i32.eq (local.get $kind) (i32.const 5)) (i32.eq (local.get $kind) (i32.const 6)))))

  (func $path_open
    (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)
    (local $errno i32)
    (if (call $is_fifo (local.get 0) (local.get 1) (local.get 2) (local.get 3))
      (then (return (i32.const 60))))  ;; ENXIO
    (if (call $count (i32.const 1)) (then (return (i32.const 33))))  ;; EMFILE
    (global.set $opened (i32.add (global.get $opened) (i32.const 1)))
    (local.set $errno (call $native_path_open (local.get 0) (local.get 1) (local.get 2) (local.get 3)
      (local.get 4) (local.get 5) (local.get 6) (local.get 7) (local.get 8)))
    (if (local.get $errno) (then (call $give_back)))
    (local.get $errno))

  (func $fd_renumber (param $from i32) (param $to i32) (result i32)
    (local $errno i32)
    (local $moved i32)
    (local.set $errno (call $native_fd_renumber (local.get $from) (local.get $to)))
    (if (i32.or (local.get $errno) (i32.eq (local.get $from) (local.get $to)))
      (then (return (local.get $errno))))
    (local.set $moved (call $standard (local.get $from)))
    (call $move (call $standard (local.get $to)) (i32.const -1))
    (call $move (local.get $moved) (local.get $to))
    (call $give_back)  ;; what was at $to is closed
    (i32.const 0))

  ;; ---- random_get: in pieces, so that a request for gigabytes can be stopped ----

  (func $random_get (param $pointer i32) (param $length i32) (result i32)
    (local $piece i32)
    (local $errno i32)
    (loop $next
      (local.set $piece (select (i32.const 65536) (local.get $length)
        (i32.gt_u (local.get $length) (i32.const 65536))))
      (local.set $errno (call $native_random_get (local.get $pointer) (local.get $piece)))
      (if (local.get $errno) (then (return (local.get $errno))))
      (local.set $pointer (i32.add (local.get $pointer) (local.get $piece)))
      (local.set $length (i32.sub (local.get $length) (local.get $piece)))
      (br_if $next (local.get $length)))
    (i32.const 0))

  ;; ---- reading and writing the standard descriptors ----

  ;; WASI's errno for a negative Linux one.
  (func $errno (param $result i64) (result i32)
    (if (i64.eq (local.get $result) (i64.const -32)) (then (return (i32.const 64))))   ;; EPIPE
    (if (i64.eq (local.get $result) (i64.const -9)) (then (return (i32.const 8))))     ;; EBADF
    (if (i64.eq (local.get $result) (i64.const -28)) (then (return (i32.const 51))))   ;; ENOSPC
    (if (i64.eq (local.get $result) (i64.const -27)) (then (return (i32.const 22))))   ;; EFBIG
    (if (i64.eq (local.get $result) (i64.const -122)) (then (return (i32.const 19))))  ;; EDQUOT
    (if (i64.eq (local.get $result) (i64.const -22)) (then (return (i32.const 28))))   ;; EINVAL
    (i32.const 29))  ;; EIO

  ;; Read (write = 0) or write (1) the first iovec that is not empty, as the engine does for files.
  (func $move_bytes
    (param $write i32) (param $which i32) (param $iovecs i32) (param $count i32) (param $moved i32) (result i32)
    (local $pointer i32)
    (local $length i32)
    (local $result i64)
    (if (i32.eqz (i32.and
          (call $inside (local.get $iovecs) (i64.shl (i64.extend_i32_u (local.get $count)) (i64.const 3)))
          (call $inside (local.get $moved) (i64.const 4))))
      (then (return (i32.const 21))))  ;; EFAULT
    (i32.store (local.get $moved) (i32.const 0))
    (block $found
      (loop $next
        (if (i32.eqz (local.get $count)) (then (return (i32.const 0))))
        (local.set $pointer (i32.load (local.get $iovecs)))
        (local.set $length (i32.load offset=4 (local.get $iovecs)))
        (br_if $found (local.get $length))
        (local.set $iovecs (i32.add (local.get $iovecs) (i32.const 8)))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $next)))
    (if (i32.eqz (call $inside (local.get $pointer) (i64.extend_i32_u (local.get $length))))
      (then (return (i32.const 21))))
    (loop $again
      ;; A FIFO that nobody has opened for writing yet reads as ended, and only poll knows the difference.
      (if (i32.eqz (local.get $write))
        (then
          (br_if $again
            (i64.eq (call $wait (local.get $which) (i64.const -1) (i64.const 0)) (i64.const -4)))))
      (local.set $result
        (call $transfer (local.get $write) (local.get $which) (local.get $pointer) (local.get $length)))
      (br_if $again (i64.eq (local.get $result) (i64.const -4)))  ;; EINTR
      (if (i64.eq (local.get $result) (i64.const -11))  ;; EAGAIN: somebody made the descriptor non-blocking
        (then
          (drop (call $wait (local.get $which) (i64.const -1) (i64.const 0)))
          (br $again))))
    (if (i64.lt_s (local.get $result) (i64.const 0))
      (then
        ;; A terminal whose other end is gone reads as EIO, which is its end of file.
        (if (i32.and (i64.eq (local.get $result) (i64.const -5)) (i32.eqz (local.get $write)))
          (then (return (i32.const 0))))
        (return (call $errno (local.get $result)))))
    (i32.store (local.get $moved) (i32.wrap_i64 (local.get $result)))
    (i32.const 0))

  (func $fd_read (param $fd i32) (param $iovecs i32) (param $count i32) (param $nread i32) (result i32)
    (if (i32.or (i32.ne (local.get $fd) (global.get $stdin)) (i32.lt_s (local.get $fd) (i32.const 0)))
      (then
        (return (call $native_fd_read
          (local.get $fd) (local.get $iovecs) (local.get $count) (local.get $nread)))))
    (call $move_bytes
      (i32.const 0) (i32.const 0) (local.get $iovecs) (local.get $count) (local.get $nread)))

  (func $fd_write (param $fd i32) (param $iovecs i32) (param $count i32) (param $nwritten i32) (result i32)
    (local $which i32)
    (local.set $which (call $standard (local.get $fd)))
    (if (i32.le_s (local.get $which) (i32.const 0))
      (then
        (return (call $native_fd_write
          (local.get $fd) (local.get $iovecs) (local.get $count) (local.get $nwritten)))))
    (call $move_bytes
      (i32.const 1) (local.get $which) (local.get $iovecs) (local.get $count) (local.get $nwritten)))

  ;; ---- poll_oneoff ----
  ;; subscription, 48 bytes: userdata u64 @0, tag u8 @8 (0 clock, 1 fd_read, 2 fd_write);
  ;;   clock: id u32 @16, timeout u64 @24, precision u64 @32, flags u16 @40 (1: absolute); fd: u32 @16
  ;; event, 32 bytes: userdata u64 @0, errno u16 @8, type u8 @10; fd: nbytes u64 @16, flags u16 @24

  (global $clock_error (mut i32) (i32.const 0))

  ;; The clock's time; its errno goes to $clock_error. `scratch` is 8 bytes of the guest's event array.
  (func $now (param $clock i32) (param $scratch i32) (result i64)
    (global.set $clock_error
      (call $native_clock_time_get (local.get $clock) (i64.const 0) (local.get $scratch)))
    (i64.load (local.get $scratch)))

  (func $left (param $deadline i64) (param $now i64) (result i64)
    (select (i64.sub (local.get $deadline) (local.get $now)) (i64.const 0)
      (i64.gt_u (local.get $deadline) (local.get $now))))

  ;; Nanoseconds until a clock subscription fires; 0 if it does now or its clock cannot be read.
  (func $clock_left
    (param $subscription i32) (param $begun i64) (param $monotonic i64) (param $scratch i32) (result i64)
    (local $clock i32)
    (local $timeout i64)
    (local.set $clock (i32.load offset=16 (local.get $subscription)))
    (local.set $timeout (i64.load offset=24 (local.get $subscription)))
    (global.set $clock_error (i32.const 0))
    (if (i32.gt_u (local.get $clock) (i32.const 3))
      (then (global.set $clock_error (i32.const 28)) (return (i64.const 0))))  ;; EINVAL
    (if (i32.gt_u (local.get $clock) (i32.const 1))  ;; CPU-time clocks: the engine has none and says so
      (then
        (drop (call $now (local.get $clock) (local.get $scratch)))
        (if (global.get $clock_error) (then (return (i64.const 0))))))
    (if (i32.eqz (i32.and (i32.load16_u offset=40 (local.get $subscription)) (i32.const 1)))
      (then
        (return (call $left (local.get $timeout) (i64.sub (local.get $monotonic) (local.get $begun))))))
    (if (i32.eq (local.get $clock) (i32.const 1))
      (then (return (call $left (local.get $timeout) (local.get $monotonic)))))
    (local.set $timeout
      (call $left (local.get $timeout) (call $now (local.get $clock) (local.get $scratch))))
    ;; Somebody may set the wall clock while we wait: look again every second.
    (select (local.get $timeout) (i64.const 1000000000)
      (i64.lt_u (local.get $timeout) (i64.const 1000000000))))

  (func $event (param $out i32) (param $subscription i32) (param $errno i32)
    (param $nbytes i64) (param $flags i32)
    (i64.store (local.get $out) (i64.load (local.get $subscription)))
    (i64.store offset=8 (local.get $out) (i64.const 0))
    (i32.store16 offset=8 (local.get $out) (local.get $errno))
    (i32.store8 offset=10 (local.get $out) (i32.load8_u offset=8 (local.get $subscription)))
    (i64.store offset=16 (local.get $out) (local.get $nbytes))
    (i64.store offset=24 (local.get $out) (i64.extend_i32_u (local.get $flags))))

  ;; Which of our descriptors a subscription waits for in its own direction, or -1.
  (func $waits_for (param $subscription i32) (result i32)
    (local $which i32)
    (local.set $which (call $standard (i32.load offset=16 (local.get $subscription))))
    (if (i32.eq (i32.load8_u offset=8 (local.get $subscription)) (i32.const 1))
      (then (return (select (i32.const 0) (i32.const -1) (i32.eqz (local.get $which))))))
    (select (local.get $which) (i32.const -1) (i32.gt_s (local.get $which) (i32.const 0))))

  ;; 1 with an event written if the descriptor has something to say now, else 0. Events of poll(2): POLLERR 8,
  ;; POLLHUP 16, POLLNVAL 32; a hang-up with nothing to read is WASI's flag 1, and so is a failure, which the
  ;; read or write that follows will name.
  (func $poll_standard (param $which i32) (param $subscription i32) (param $out i32) (result i32)
    (local $events i64)
    (loop $again
      (local.set $events (call $wait (local.get $which) (i64.const 0) (i64.const 0)))
      (br_if $again (i64.eq (local.get $events) (i64.const -4))))
    (if (i64.eqz (local.get $events)) (then (return (i32.const 0))))
    (call $event (local.get $out) (local.get $subscription) (i32.const 0)
      (i64.extend_i32_u (i64.ne (i64.and (local.get $events) (i64.const 5)) (i64.const 0)))
      (i32.eqz (i32.wrap_i64 (i64.and (local.get $events) (i64.const 5)))))
    (i32.const 1))

  (func $poll_oneoff
    (param $in i32) (param $out i32) (param $count i32) (param $nevents i32) (result i32)
    (local $begun i64)      ;; the monotonic clock at the call
    (local $monotonic i64)  ;; and now
    (local $index i32)
    (local $subscription i32)
    (local $event i32)      ;; where the next event goes
    (local $events i32)
    (local $left i64)
    (local $nearest i64)
    (local $which i32)
    (local $awaited i32)    ;; the descriptor to wait for, or -1
    (local $several i32)    ;; there is more than one
    (local $errno i32)
    (if (i32.eqz (local.get $count)) (then (return (i32.const 28))))  ;; EINVAL
    (if (i32.eqz (i32.and (i32.and
          (call $inside (local.get $in) (i64.mul (i64.extend_i32_u (local.get $count)) (i64.const 48)))
          (call $inside (local.get $out) (i64.mul (i64.extend_i32_u (local.get $count)) (i64.const 32))))
          (call $inside (local.get $nevents) (i64.const 4))))
      (then (return (i32.const 21))))  ;; EFAULT
    (local.set $begun (call $now (i32.const 1) (local.get $out)))
    (loop $again
      (local.set $monotonic (call $now (i32.const 1) (local.get $out)))
      (local.set $nearest (i64.const -1))
      (local.set $awaited (i32.const -1))
      (local.set $several (i32.const 0))
      (local.set $events (i32.const 0))
      (local.set $event (local.get $out))
      (local.set $index (i32.const 0))
      (local.set $subscription (local.get $in))
      (loop $next
        (block $checked
          (if (i32.eqz (i32.load8_u offset=8 (local.get $subscription)))
            (then
              (local.set $left (call $clock_left
                (local.get $subscription) (local.get $begun) (local.get $monotonic) (local.get $event)))
              (if (i64.eqz (local.get $left))
                (then
                  (call $event (local.get $event) (local.get $subscription) (global.get $clock_error)
                    (i64.const 0) (i32.const 0))
                  (local.set $events (i32.add (local.get $events) (i32.const 1))))
                (else
                  (if (i64.lt_u (local.get $left) (local.get $nearest))
                    (then (local.set $nearest (local.get $left))))))
              (br $checked)))
          (local.set $which (call $waits_for (local.get $subscription)))
          (if (i32.ge_s (local.get $which) (i32.const 0))
            (then
              (if (call $poll_standard
                    (local.get $which) (local.get $subscription) (local.get $event))
                (then (local.set $events (i32.add (local.get $events) (i32.const 1))))
                (else
                  (local.set $several (i32.or (local.get $several)
                    (i32.and (i32.ge_s (local.get $awaited) (i32.const 0))
                      (i32.ne (local.get $awaited) (local.get $which)))))
                  (local.set $awaited (local.get $which))))
              (br $checked)))
          ;; Files never wait: the engine answers at once, with one event each.
          (local.set $errno (call $native_poll_oneoff
            (local.get $subscription) (local.get $event) (i32.const 1) (local.get $nevents)))
          (if (local.get $errno)
            (then (call $event (local.get $event) (local.get $subscription) (local.get $errno)
              (i64.const 0) (i32.const 0))))
          (local.set $events (i32.add (local.get $events) (i32.const 1))))
        (local.set $event
          (i32.add (local.get $out) (i32.shl (local.get $events) (i32.const 5))))
        (local.set $subscription (i32.add (local.get $subscription) (i32.const 48)))
        (local.set $index (i32.add (local.get $index) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $index) (local.get $count))))
      (if (local.get $events)
        (then
          (i32.store (local.get $nevents) (local.get $events))
          (return (i32.const 0))))
      ;; One descriptor can be waited for; with several (a full stdout and a stdin, say) look at each in turn.
      (if (i32.and (local.get $several) (i64.gt_u (local.get $nearest) (i64.const 5000000)))
        (then (local.set $nearest (i64.const 5000000))))
      ;; A time beyond 2^63 ns is for ever.
      (drop (call $wait (local.get $awaited)
        (select (i64.const -1) (i64.div_u (local.get $nearest) (i64.const 1000000000))
          (i64.lt_s (local.get $nearest) (i64.const 0)))
        (i64.rem_u (local.get $nearest) (i64.const 1000000000))))
      (br $again))
    (unreachable)))
