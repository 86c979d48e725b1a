// What the components that use wasi:sockets share: cases of its enums, the shapes of its answers, the network.

#pragma once

#include "component.h"

// Cases of ip-address-family and error-code.
enum { IPV4 = 0, WOULD_BLOCK = 8 };

// result<_, error-code>
typedef struct {
    uint8_t is_error;
    uint8_t error;
} outcome;

// result<HANDLE, error-code>: one or the other, in the same place.
typedef struct {
    uint8_t is_error;
    union {
        handle made;
        uint8_t error;
    };
} created;

// An address comes in twelve flat parts, the first being its family. For IPv4 follow the port and four bytes; the
// rest is IPv6's.
#define ADDRESS                                                                                            \
    int32_t family, int32_t port, int32_t a, int32_t b, int32_t c, int32_t d, int32_t, int32_t, int32_t,  \
        int32_t, int32_t, int32_t

IMPORT("wasi:sockets/instance-network@0.2.0", "instance-network")
handle instance_network(void);
