;; The frame of client: what it takes from WASI, what it offers, and how both reach the program.
;; component.py fills the two empty modules: $memory with component/memory.wat, $program with what client.c
;; compiles to.

(component
  (import "wasi:cli/environment@0.2.0" (instance $environment
    (export "get-arguments" (func (result (list string))))))

  (import "wasi:clocks/wall-clock@0.2.0" (instance $wall-clock
    (type $when (record (field "seconds" u64) (field "nanoseconds" u32)))
    (export "datetime" (type $datetime (eq $when)))
    (export "now" (func (result $datetime)))))

  (import "wasi:random/random@0.2.0" (instance $random
    (export "get-random-u64" (func (result u64)))))

  (import "wasi:io/error@0.2.0" (instance $io-error
    (export "error" (type (sub resource)))))
  (alias export $io-error "error" (type $error))

  (import "wasi:io/poll@0.2.0" (instance $poll
    (export "pollable" (type $pollable (sub resource)))
    (export "[method]pollable.block" (func (param "self" (borrow $pollable))))))
  (alias export $poll "pollable" (type $pollable))

  (import "wasi:io/streams@0.2.0" (instance $streams
    (export "input-stream" (type $input-stream (sub resource)))
    (export "output-stream" (type $output-stream (sub resource)))
    (type $failure (variant (case "last-operation-failed" (own $error)) (case "closed")))
    (export "stream-error" (type $stream-error (eq $failure)))
    (export "[method]input-stream.blocking-read" (func
      (param "self" (borrow $input-stream)) (param "len" u64)
      (result (result (list u8) (error $stream-error)))))
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
    (type $any (variant (case "ipv4" $ipv4-address) (case "ipv6" $ipv6-address)))
    (export "ip-address" (type (eq $any)))
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
  (alias export $net "ip-address" (type $ip-address))
  (alias export $net "ip-socket-address" (type $ip-socket-address))

  (import "wasi:sockets/instance-network@0.2.0" (instance $instance-network
    (export "instance-network" (func (result (own $network))))))

  (import "wasi:sockets/ip-name-lookup@0.2.0" (instance $lookup
    (export "resolve-address-stream" (type $resolve-address-stream (sub resource)))
    (export "resolve-addresses" (func
      (param "network" (borrow $network)) (param "name" string)
      (result (result (own $resolve-address-stream) (error $error-code)))))
    (export "[method]resolve-address-stream.resolve-next-address" (func
      (param "self" (borrow $resolve-address-stream))
      (result (result (option $ip-address) (error $error-code)))))
    (export "[method]resolve-address-stream.subscribe" (func
      (param "self" (borrow $resolve-address-stream)) (result (own $pollable))))))

  (import "wasi:sockets/udp@0.2.0" (instance $udp
    (export "udp-socket" (type $udp-socket (sub resource)))
    (export "incoming-datagram-stream" (type $incoming-datagram-stream (sub resource)))
    (export "outgoing-datagram-stream" (type $outgoing-datagram-stream (sub resource)))
    (type $in (record (field "data" (list u8)) (field "remote-address" $ip-socket-address)))
    (export "incoming-datagram" (type $incoming-datagram (eq $in)))
    (type $out (record (field "data" (list u8)) (field "remote-address" (option $ip-socket-address))))
    (export "outgoing-datagram" (type $outgoing-datagram (eq $out)))
    (export "[method]udp-socket.start-bind" (func
      (param "self" (borrow $udp-socket)) (param "network" (borrow $network))
      (param "local-address" $ip-socket-address) (result (result (error $error-code)))))
    (export "[method]udp-socket.finish-bind" (func
      (param "self" (borrow $udp-socket)) (result (result (error $error-code)))))
    (export "[method]udp-socket.stream" (func
      (param "self" (borrow $udp-socket)) (param "remote-address" (option $ip-socket-address))
      (result (result
        (tuple (own $incoming-datagram-stream) (own $outgoing-datagram-stream)) (error $error-code)))))
    (export "[method]udp-socket.subscribe" (func
      (param "self" (borrow $udp-socket)) (result (own $pollable))))
    (export "[method]incoming-datagram-stream.receive" (func
      (param "self" (borrow $incoming-datagram-stream)) (param "max-results" u64)
      (result (result (list $incoming-datagram) (error $error-code)))))
    (export "[method]incoming-datagram-stream.subscribe" (func
      (param "self" (borrow $incoming-datagram-stream)) (result (own $pollable))))
    (export "[method]outgoing-datagram-stream.check-send" (func
      (param "self" (borrow $outgoing-datagram-stream)) (result (result u64 (error $error-code)))))
    (export "[method]outgoing-datagram-stream.send" (func
      (param "self" (borrow $outgoing-datagram-stream)) (param "datagrams" (list $outgoing-datagram))
      (result (result u64 (error $error-code)))))
    (export "[method]outgoing-datagram-stream.subscribe" (func
      (param "self" (borrow $outgoing-datagram-stream)) (result (own $pollable))))))
  (alias export $udp "udp-socket" (type $udp-socket))

  (import "wasi:sockets/udp-create-socket@0.2.0" (instance $create
    (export "create-udp-socket" (func
      (param "address-family" $ip-address-family)
      (result (result (own $udp-socket) (error $error-code)))))))

  (import "wasi:http/types@0.2.0" (instance $http
    (export "fields" (type $fields (sub resource)))
    (export "outgoing-request" (type $outgoing-request (sub resource)))
    (export "request-options" (type (sub resource)))
    (export "future-incoming-response" (type $future-incoming-response (sub resource)))
    (export "incoming-response" (type $incoming-response (sub resource)))
    (export "incoming-body" (type $incoming-body (sub resource)))
    (type $schemes (variant (case "HTTP") (case "HTTPS") (case "other" string)))
    (export "scheme" (type $scheme (eq $schemes)))
    (type $dns (record (field "rcode" (option string)) (field "info-code" (option u16))))
    (export "DNS-error-payload" (type $dns-error-payload (eq $dns)))
    (type $alert (record (field "alert-id" (option u8)) (field "alert-message" (option string))))
    (export "TLS-alert-received-payload" (type $tls-alert-received-payload (eq $alert)))
    (type $size (record (field "field-name" (option string)) (field "field-size" (option u32))))
    (export "field-size-payload" (type $field-size-payload (eq $size)))
    (type $codes (variant
      (case "DNS-timeout") (case "DNS-error" $dns-error-payload)
      (case "destination-not-found") (case "destination-unavailable")
      (case "destination-IP-prohibited") (case "destination-IP-unroutable")
      (case "connection-refused") (case "connection-terminated") (case "connection-timeout")
      (case "connection-read-timeout") (case "connection-write-timeout") (case "connection-limit-reached")
      (case "TLS-protocol-error") (case "TLS-certificate-error")
      (case "TLS-alert-received" $tls-alert-received-payload)
      (case "HTTP-request-denied") (case "HTTP-request-length-required")
      (case "HTTP-request-body-size" (option u64)) (case "HTTP-request-method-invalid")
      (case "HTTP-request-URI-invalid") (case "HTTP-request-URI-too-long")
      (case "HTTP-request-header-section-size" (option u32))
      (case "HTTP-request-header-size" (option $field-size-payload))
      (case "HTTP-request-trailer-section-size" (option u32))
      (case "HTTP-request-trailer-size" $field-size-payload)
      (case "HTTP-response-incomplete") (case "HTTP-response-header-section-size" (option u32))
      (case "HTTP-response-header-size" $field-size-payload)
      (case "HTTP-response-body-size" (option u64))
      (case "HTTP-response-trailer-section-size" (option u32))
      (case "HTTP-response-trailer-size" $field-size-payload)
      (case "HTTP-response-transfer-coding" (option string))
      (case "HTTP-response-content-coding" (option string))
      (case "HTTP-response-timeout") (case "HTTP-upgrade-failed") (case "HTTP-protocol-error")
      (case "loop-detected") (case "configuration-error") (case "internal-error" (option string))))
    (export "error-code" (type $http-error-code (eq $codes)))
    (export "[constructor]fields" (func (result (own $fields))))
    (export "[constructor]outgoing-request" (func
      (param "headers" (own $fields)) (result (own $outgoing-request))))
    (export "[method]outgoing-request.set-scheme" (func
      (param "self" (borrow $outgoing-request)) (param "scheme" (option $scheme)) (result (result))))
    (export "[method]outgoing-request.set-authority" (func
      (param "self" (borrow $outgoing-request)) (param "authority" (option string)) (result (result))))
    (export "[method]outgoing-request.set-path-with-query" (func
      (param "self" (borrow $outgoing-request)) (param "path-with-query" (option string)) (result (result))))
    (export "[method]future-incoming-response.subscribe" (func
      (param "self" (borrow $future-incoming-response)) (result (own $pollable))))
    (export "[method]future-incoming-response.get" (func
      (param "self" (borrow $future-incoming-response))
      (result (option (result (result (own $incoming-response) (error $http-error-code)))))))
    (export "[method]incoming-response.status" (func
      (param "self" (borrow $incoming-response)) (result u16)))
    (export "[method]incoming-response.consume" (func
      (param "self" (borrow $incoming-response)) (result (result (own $incoming-body)))))
    (export "[method]incoming-body.stream" (func
      (param "self" (borrow $incoming-body)) (result (result (own $input-stream)))))))
  (alias export $http "outgoing-request" (type $outgoing-request))
  (alias export $http "request-options" (type $request-options))
  (alias export $http "future-incoming-response" (type $future-incoming-response))
  (alias export $http "error-code" (type $http-error-code))

  (import "wasi:http/outgoing-handler@0.2.0" (instance $handler
    (export "handle" (func
      (param "request" (own $outgoing-request)) (param "options" (option (own $request-options)))
      (result (result (own $future-incoming-response) (error $http-error-code)))))))

  (core module $memory)
  (core module $program)

  (core instance $memory (instantiate $memory))
  (alias core export $memory "memory" (core memory $bytes))
  (alias core export $memory "realloc" (core func $realloc))

  (core func $get-arguments
    (canon lower (func $environment "get-arguments") (memory $bytes) (realloc $realloc)))
  (core func $now (canon lower (func $wall-clock "now") (memory $bytes)))
  (core func $get-random-u64 (canon lower (func $random "get-random-u64")))
  (core func $get-stdout (canon lower (func $stdout "get-stdout")))
  (core func $read (canon lower (func $streams "[method]input-stream.blocking-read")
    (memory $bytes) (realloc $realloc)))
  (core func $write
    (canon lower (func $streams "[method]output-stream.blocking-write-and-flush") (memory $bytes)))
  (core func $drop-error (canon resource.drop $error))
  (core func $block (canon lower (func $poll "[method]pollable.block")))
  (core func $instance-network (canon lower (func $instance-network "instance-network")))
  (core func $resolve-addresses (canon lower (func $lookup "resolve-addresses") (memory $bytes)))
  (core func $resolve-next-address
    (canon lower (func $lookup "[method]resolve-address-stream.resolve-next-address") (memory $bytes)))
  (core func $resolve-subscribe
    (canon lower (func $lookup "[method]resolve-address-stream.subscribe")))
  (core func $create-udp-socket (canon lower (func $create "create-udp-socket") (memory $bytes)))
  (core func $start-bind (canon lower (func $udp "[method]udp-socket.start-bind") (memory $bytes)))
  (core func $finish-bind (canon lower (func $udp "[method]udp-socket.finish-bind") (memory $bytes)))
  (core func $stream (canon lower (func $udp "[method]udp-socket.stream") (memory $bytes)))
  (core func $subscribe (canon lower (func $udp "[method]udp-socket.subscribe")))
  (core func $receive (canon lower (func $udp "[method]incoming-datagram-stream.receive")
    (memory $bytes) (realloc $realloc)))
  (core func $incoming-subscribe (canon lower (func $udp "[method]incoming-datagram-stream.subscribe")))
  (core func $check-send
    (canon lower (func $udp "[method]outgoing-datagram-stream.check-send") (memory $bytes)))
  (core func $send (canon lower (func $udp "[method]outgoing-datagram-stream.send") (memory $bytes)))
  (core func $outgoing-subscribe (canon lower (func $udp "[method]outgoing-datagram-stream.subscribe")))
  (core func $fields (canon lower (func $http "[constructor]fields")))
  (core func $outgoing-request (canon lower (func $http "[constructor]outgoing-request")))
  (core func $set-scheme
    (canon lower (func $http "[method]outgoing-request.set-scheme") (memory $bytes)))
  (core func $set-authority
    (canon lower (func $http "[method]outgoing-request.set-authority") (memory $bytes)))
  (core func $set-path-with-query
    (canon lower (func $http "[method]outgoing-request.set-path-with-query") (memory $bytes)))
  (core func $future-subscribe (canon lower (func $http "[method]future-incoming-response.subscribe")))
  (core func $future-get (canon lower (func $http "[method]future-incoming-response.get")
    (memory $bytes) (realloc $realloc)))
  (core func $status (canon lower (func $http "[method]incoming-response.status")))
  (core func $consume (canon lower (func $http "[method]incoming-response.consume") (memory $bytes)))
  (core func $body-stream (canon lower (func $http "[method]incoming-body.stream") (memory $bytes)))
  (core func $handle (canon lower (func $handler "handle") (memory $bytes) (realloc $realloc)))

  (core instance $program (instantiate $program
    (with "env" (instance (export "memory" (memory $bytes))))
    (with "wasi:cli/environment@0.2.0" (instance
      (export "get-arguments" (func $get-arguments))))
    (with "wasi:clocks/wall-clock@0.2.0" (instance
      (export "now" (func $now))))
    (with "wasi:random/random@0.2.0" (instance
      (export "get-random-u64" (func $get-random-u64))))
    (with "wasi:cli/stdout@0.2.0" (instance
      (export "get-stdout" (func $get-stdout))))
    (with "wasi:io/error@0.2.0" (instance
      (export "[resource-drop]error" (func $drop-error))))
    (with "wasi:io/streams@0.2.0" (instance
      (export "[method]input-stream.blocking-read" (func $read))
      (export "[method]output-stream.blocking-write-and-flush" (func $write))))
    (with "wasi:io/poll@0.2.0" (instance
      (export "[method]pollable.block" (func $block))))
    (with "wasi:sockets/instance-network@0.2.0" (instance
      (export "instance-network" (func $instance-network))))
    (with "wasi:sockets/ip-name-lookup@0.2.0" (instance
      (export "resolve-addresses" (func $resolve-addresses))
      (export "[method]resolve-address-stream.resolve-next-address" (func $resolve-next-address))
      (export "[method]resolve-address-stream.subscribe" (func $resolve-subscribe))))
    (with "wasi:sockets/udp-create-socket@0.2.0" (instance
      (export "create-udp-socket" (func $create-udp-socket))))
    (with "wasi:sockets/udp@0.2.0" (instance
      (export "[method]udp-socket.start-bind" (func $start-bind))
      (export "[method]udp-socket.finish-bind" (func $finish-bind))
      (export "[method]udp-socket.stream" (func $stream))
      (export "[method]udp-socket.subscribe" (func $subscribe))
      (export "[method]incoming-datagram-stream.receive" (func $receive))
      (export "[method]incoming-datagram-stream.subscribe" (func $incoming-subscribe))
      (export "[method]outgoing-datagram-stream.check-send" (func $check-send))
      (export "[method]outgoing-datagram-stream.send" (func $send))
      (export "[method]outgoing-datagram-stream.subscribe" (func $outgoing-subscribe))))
    (with "wasi:http/types@0.2.0" (instance
      (export "[constructor]fields" (func $fields))
      (export "[constructor]outgoing-request" (func $outgoing-request))
      (export "[method]outgoing-request.set-scheme" (func $set-scheme))
      (export "[method]outgoing-request.set-authority" (func $set-authority))
      (export "[method]outgoing-request.set-path-with-query" (func $set-path-with-query))
      (export "[method]future-incoming-response.subscribe" (func $future-subscribe))
      (export "[method]future-incoming-response.get" (func $future-get))
      (export "[method]incoming-response.status" (func $status))
      (export "[method]incoming-response.consume" (func $consume))
      (export "[method]incoming-body.stream" (func $body-stream))))
    (with "wasi:http/outgoing-handler@0.2.0" (instance
      (export "handle" (func $handle))))))

  (func $run (result (result)) (canon lift (core func $program "run")))
  (instance $run (export "run" (func $run)))
  (export "wasi:cli/run@0.2.0" (instance $run)))
