;; The frame of tcp-server: what it takes from WASI, what it offers, and how both reach the program.
;; component.py fills the two empty modules: $memory with component/memory.wat, $program with what
;; tcp-server.c compiles to.

(component
  (import "wasi:cli/environment@0.2.0" (instance $environment
    (export "get-arguments" (func (result (list string))))))

  (import "wasi:io/error@0.2.0" (instance $io-error
    (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $error))

  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $poll "pollable" (type $pollable))

  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "input-stream" (type (sub resource)))
    (export "output-stream" (type $output-stream (sub resource)))
    (type $failure (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $failure)))
    (export "[method]output-stream.blocking-write-and-flush" (func
      (param "self" (borrow $output-stream)) (param "contents" (list u8))
      (result (result (error $stream-error)))))))
  (alias export $streams "input-stream" (type $input-stream))
  (alias export $streams "output-stream" (type $output-stream))

  (import "wasi:cli/stdout@0.2.0" (instance $stdout
    (export "get-stdout" (func (result (own $output-stream))))))

  (import "wasi:sockets/network@0.2.0" (instance $net
    (export "network" (type (sub resource)))
    (type $codes (enum
      "unknown" "access-denied" "not-supported" "invalid-argument" "out-of-memory" "timeout"
      "concurrency-conflict" "not-in-progress" "would-block" "invalid-state" "new-socket-limit"
      "address-not-bindable" "address-in-use" "remote-unreachable" "connection-refused" "connection-reset"
      "connection-aborted" "datagram-too-large" "name-unresolvable" "temporary-resolver-failure"
      "permanent-resolver-failure"))
    (export "error-code" (type (eq $codes)))
    (type $families (enum "ipv4" "ipv6"))
    (export "ip-address-family" (type (eq $families)))
    (type $four (tuple u8 u8 u8 u8))
    (export "ipv4-address" (type $ipv4-address (eq $four)))
    (type $eight (tuple u16 u16 u16 u16 u16 u16 u16 u16))
    (export "ipv6-address" (type $ipv6-address (eq $eight)))
    (type $ipv4 (record (field "port" u16) (field "address" $ipv4-address)))
    (export "ipv4-socket-address" (type $ipv4-socket-address (eq $ipv4)))
    (type $ipv6 (record
      (field "port" u16) (field "flow-info" u32) (field "address" $ipv6-address) (field "scope-id" u32)))
    (export "ipv6-socket-address" (type $ipv6-socket-address (eq $ipv6)))
    (type $either (variant (case "ipv4" $ipv4-socket-address) (case "ipv6" $ipv6-socket-address)))
    (export "ip-socket-address" (type (eq $either)))))
  (alias export $net "network" (type $network))
  (alias export $net "error-code" (type $error-code))
  (alias export $net "ip-address-family" (type $ip-address-family))
  (alias export $net "ip-socket-address" (type $ip-socket-address))

  (import "wasi:sockets/instance-network@0.2.0" (instance $instance-network
    (export "instance-network" (func (result (own $network))))))

  (import "wasi:sockets/tcp@0.2.0" (instance $tcp
    (export "tcp-socket" (type $tcp-socket (sub resource)))
    (type $directions (enum "receive" "send" "both"))
    (export "shutdown-type" (type $shutdown-type (eq $directions)))
    (export "[method]tcp-socket.start-bind" (func
      (param "self" (borrow $tcp-socket)) (param "network" (borrow $network))
      (param "local-address" $ip-socket-address) (result (result (error $error-code)))))
    (export "[method]tcp-socket.finish-bind" (func
      (param "self" (borrow $tcp-socket)) (result (result (error $error-code)))))
    (export "[method]tcp-socket.start-listen" (func
      (param "self" (borrow $tcp-socket)) (result (result (error $error-code)))))
    (export "[method]tcp-socket.finish-listen" (func
      (param "self" (borrow $tcp-socket)) (result (result (error $error-code)))))
    (export "[method]tcp-socket.local-address" (func
      (param "self" (borrow $tcp-socket)) (result (result $ip-socket-address (error $error-code)))))
    (export "[method]tcp-socket.accept" (func
      (param "self" (borrow $tcp-socket))
      (result (result
        (tuple (own $tcp-socket) (own $input-stream) (own $output-stream)) (error $error-code)))))
    (export "[method]tcp-socket.shutdown" (func
      (param "self" (borrow $tcp-socket)) (param "shutdown-type" $shutdown-type)
      (result (result (error $error-code)))))
    (export "[method]tcp-socket.subscribe" (func
      (param "self" (borrow $tcp-socket)) (result (own $pollable))))))
  (alias export $tcp "tcp-socket" (type $tcp-socket))

  (import "wasi:sockets/tcp-create-socket@0.2.0" (instance $create
    (export "create-tcp-socket" (func
      (param "address-family" $ip-address-family)
      (result (result (own $tcp-socket) (error $error-code)))))))

  (core module $memory)
  (core module $program)

  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $bytes))
  (alias core export $memory "realloc" (core func $realloc))

  (core func $get-arguments
    (canon lower (func $environment "get-arguments") (memory $bytes) (realloc $realloc)))
  (core func $get-stdout (canon lower (func $stdout "get-stdout")))
  (core func $write
    (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") (memory $bytes)))
  (core func $drop-error (canon resource.drop $error))
  (core func $drop-output-stream (canon resource.drop $output-stream))
  (core func $drop-input-stream (canon resource.drop $input-stream))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $instance-network (canon lower (func $instance-network "instance-network")))
  (core func $create-tcp-socket (canon lower (func $create "create-tcp-socket") (memory $bytes)))
  (core func $start-bind (canon lower (func $tcp "[method]tcp-socket.start-bind") (memory $bytes)))
  (core func $finish-bind (canon lower (func $tcp "[method]tcp-socket.finish-bind") (memory $bytes)))
  (core func $start-listen (canon lower (func $tcp "[method]tcp-socket.start-listen") (memory $bytes)))
  (core func $finish-listen (canon lower (func $tcp "[method]tcp-socket.finish-listen") (memory $bytes)))
  (core func $local-address (canon lower (func $tcp "[method]tcp-socket.local-address") (memory $bytes)))
  (core func $accept (canon lower (func $tcp "[method]tcp-socket.accept") (memory $bytes)))
  (core func $shutdown (canon lower (func $tcp "[method]tcp-socket.shutdown") (memory $bytes)))
  (core func $subscribe (canon lower (func $tcp "[method]tcp-socket.subscribe")))
  (core func $drop-tcp-socket (canon resource.drop $tcp-socket))

  (core instance $program (instantiate $program
    (with "env" (instance (export "memory" (memory $bytes))))
    (with "wasi:cli/environment@0.2.0" (instance
      (export "get-arguments" (func $get-arguments))))
    (with "wasi:cli/stdout@0.2.0" (instance
      (export "get-stdout" (func $get-stdout))))
    (with "wasi:io/error@0.2.0" (instance
      (export "[resource-drop]error" (func $drop-error))))
    (with "wasi:io/streams@0.2.0" (instance
      (export "[method]output-stream.blocking-write-and-flush" (func $write))
      (export "[resource-drop]output-stream" (func $drop-output-stream))
      (export "[resource-drop]input-stream" (func $drop-input-stream))))
    (with "wasi:io/poll@0.2.0" (instance
      (export "[method]pollable.block" (func $block))))
    (with "wasi:sockets/instance-network@0.2.0" (instance
      (export "instance-network" (func $instance-network))))
    (with "wasi:sockets/tcp-create-socket@0.2.0" (instance
      (export "create-tcp-socket" (func $create-tcp-socket))))
    (with "wasi:sockets/tcp@0.2.0" (instance
      (export "[method]tcp-socket.start-bind" (func $start-bind))
      (export "[method]tcp-socket.finish-bind" (func $finish-bind))
      (export "[method]tcp-socket.start-listen" (func $start-listen))
      (export "[method]tcp-socket.finish-listen" (func $finish-listen))
      (export "[method]tcp-socket.local-address" (func $local-address))
      (export "[method]tcp-socket.accept" (func $accept))
      (export "[method]tcp-socket.shutdown" (func $shutdown))
      (export "[method]tcp-socket.subscribe" (func $subscribe))
      (export "[resource-drop]tcp-socket" (func $drop-tcp-socket))))))

  (func $run (result (result)) (canon lift (core func $program "run")))
  (instance $run (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $run)))
