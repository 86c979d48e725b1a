;; The frame of sleep-component: what it takes from WASI, what it offers, and how both reach the program.
;; component.py fills the two empty modules: $memory with component/memory.wat, $program with what
;; sleep-component.c compiles to.

(component
  (import "wasi:cli/environment@0.2.0" (instance $environment
    (export "get-arguments" (func (result (list string))))))

  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $poll "pollable" (type $pollable))

  (import "wasi:clocks/monotonic-clock@0.2.0" (instance $clock
    (export "subscribe-duration" (func (param "when" u64) (result (own $pollable))))))

  (import "wasi:io/error@0.2.0" (instance $io-error
    (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $error))

  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "output-stream" (type $output-stream (sub resource)))
    (type $failure (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $failure)))
    (export "[method]output-stream.blocking-write-and-flush" (func
      (param "self" (borrow $output-stream)) (param "contents" (list u8))
      (result (result (error $stream-error)))))))
  (alias export $streams "output-stream" (type $output-stream))

  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (export "get-stdout" (func (result (own $output-stream))))))

  (core module $memory)
  (core module $program)

  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $bytes))
  (alias core export $memory "realloc" (core func $realloc))

  (core func $get-arguments
    (canon lower (func $environment "get-arguments") (memory $bytes) (realloc $realloc)))
  (core func $subscribe-duration (canon lower (func $clock "subscribe-duration")))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $drop-pollable (canon resource.drop $pollable))
  (core func $get-stdout (canon lower (func $stdout "get-stdout")))
  (core func $write
    (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") (memory $bytes)))
  (core func $drop-error (canon resource.drop $error))
  (core func $drop-output-stream (canon resource.drop $output-stream))

  (core instance $program (instantiate $program
    (with "env" (instance (export "memory" (memory $bytes))))
    (with "wasi:cli/environment@0.2.0" (instance
      (export "get-arguments" (func $get-arguments))))
    (with "wasi:clocks/monotonic-clock@0.2.0" (instance
      (export "subscribe-duration" (func $subscribe-duration))))
    (with "wasi:io/poll@0.2.0" (instance
      (export "[method]pollable.block" (func $block))
      (export "[resource-drop]pollable" (func $drop-pollable))))
    (with "wasi:cli/stdout@0.2.0" (instance
      (export "get-stdout" (func $get-stdout))))
    (with "wasi:io/error@0.2.0" (instance
      (export "[resource-drop]error" (func $drop-error))))
    (with "wasi:io/streams@0.2.0" (instance
      (export "[method]output-stream.blocking-write-and-flush" (func $write))
      (export "[resource-drop]output-stream" (func $drop-output-stream))))))

  (func $run (result (result)) (canon lift (core func $program "run")))
  (instance $run (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $run)))
