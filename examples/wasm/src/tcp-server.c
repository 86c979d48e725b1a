// tcp-server: a component that serves TCP connections, one after the other, for ever.
//
//     tcp-server [PORT]    on 0.0.0.0; default 8080; 0 lets the host choose
//
// Prints `listening on port N`. Each connection gets `hello N` and a line feed, N being how many connections
// there have been, and is then closed. Ends, with an error, only when it cannot listen or cannot accept: then
// it prints `tcp-server: STEP: error E`, E being the number of the error-code of wasi:sockets/network.
// Its frame is tcp-server.wat.

#include "component/sockets.h"

// Cases of shutdown-type and error-code.
enum { SHUTDOWN_SEND = 1, CONNECTION_ABORTED = 16 };

enum { LINE = 64 };

// result<tuple<tcp-socket, input-stream, output-stream>, error-code>
typedef struct {
    uint8_t is_error;
    union {
        struct {
            handle socket, input, output;
        };
        uint8_t error;
    };
} accepted;

// result<ip-socket-address, error-code>, as far as an IPv4 address goes. The places not used here belong to
// the longer IPv6 address, for which there must be room.
typedef struct {
    uint8_t is_error;
    struct {
        uint8_t family_or_error;
        union {
            uint16_t port;
            uint32_t ipv6[7];
        };
    };
} address;
_Static_assert(offsetof(address, port) == 8 && sizeof(address) == 36, "as the canonical ABI lays it out");

IMPORT("wasi:sockets/tcp-create-socket@0.2.0", "create-tcp-socket")
void create_socket(int32_t family, created *result);

IMPORT("wasi:sockets/tcp@0.2.0", "[method]tcp-socket.start-bind")
void start_bind(handle socket, handle network, ADDRESS, outcome *result);

IMPORT("wasi:sockets/tcp@0.2.0", "[method]tcp-socket.finish-bind")
void finish_bind(handle socket, outcome *result);

IMPORT("wasi:sockets/tcp@0.2.0", "[method]tcp-socket.start-listen")
void start_listen(handle socket, outcome *result);

IMPORT("wasi:sockets/tcp@0.2.0", "[method]tcp-socket.finish-listen")
void finish_listen(handle socket, outcome *result);

IMPORT("wasi:sockets/tcp@0.2.0", "[method]tcp-socket.local-address")
void local_address(handle socket, address *result);

IMPORT("wasi:sockets/tcp@0.2.0", "[method]tcp-socket.accept")
void socket_accept(handle socket, accepted *result);

IMPORT("wasi:sockets/tcp@0.2.0", "[method]tcp-socket.shutdown")
void socket_shutdown(handle socket, int32_t how, outcome *result);

IMPORT("wasi:sockets/tcp@0.2.0", "[method]tcp-socket.subscribe")
handle socket_subscribe(handle socket);

IMPORT("wasi:sockets/tcp@0.2.0", "[resource-drop]tcp-socket")
void socket_drop(handle socket);

// Adds the text to what stands in the line already; what goes beyond its end is dropped.
static void add(text *line, char room[LINE], text more) {
    for (size_t i = 0; i < more.length && line->length < LINE; i++) room[line->length++] = more.data[i];
}

// Writes both and a line feed with one call, so that it goes out as one piece.
static bool write_numbered(handle stream, const char *before, uint32_t number) {
    char room[LINE], digits[10];
    text line = {room, 0};
    add(&line, room, of_literal(before));
    add(&line, room, of_number(number, digits));
    add(&line, room, of_literal("\n"));
    return write_text(stream, line);
}

static bool fail(handle out, const char *step, uint8_t error) {
    write_numbered(out, step, error);
    return false;
}

typedef void second_half(handle socket, outcome *result);

// Calls the second half of a step again and again until it is done: it answers `would-block` until then.
static outcome finish_step(handle pollable, handle socket, second_half *finish) {
    outcome result;
    for (;;) {
        finish(socket, &result);
        if (!result.is_error || result.error != WOULD_BLOCK) return result;
        pollable_block(pollable);
    }
}

static bool bind_to(handle out, handle pollable, handle socket, uint16_t port) {
    outcome result;
    start_bind(socket, instance_network(), IPV4, port, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, &result);
    if (!result.is_error) result = finish_step(pollable, socket, finish_bind);
    return !result.is_error || fail(out, "tcp-server: bind: error ", result.error);
}

static bool listen_on(handle out, handle pollable, handle socket) {
    outcome result;
    start_listen(socket, &result);
    if (!result.is_error) result = finish_step(pollable, socket, finish_listen);
    return !result.is_error || fail(out, "tcp-server: listen: error ", result.error);
}

static bool tell_port(handle out, handle socket) {
    address bound;
    local_address(socket, &bound);
    if (bound.is_error) return fail(out, "tcp-server: local-address: error ", bound.family_or_error);
    return write_numbered(out, "listening on port ", bound.port);
}

// A client that has gone away already is no reason to stop: what goes wrong here is not looked at.
static void answer(const accepted *client, uint32_t number) {
    outcome ignored;
    write_numbered(client->output, "hello ", number);
    socket_shutdown(client->socket, SHUTDOWN_SEND, &ignored);
    input_drop(client->input);  // the streams belong to the socket, so they go first
    stream_drop(client->output);
    socket_drop(client->socket);
}

// Answers one connection after the other; comes back only with an error.
static bool serve(handle out, handle pollable, handle socket) {
    uint32_t number = 0;
    for (;;) {
        accepted client;
        socket_accept(socket, &client);
        if (!client.is_error) answer(&client, ++number);
        else if (client.error == WOULD_BLOCK) pollable_block(pollable);
        else if (client.error != CONNECTION_ABORTED) return fail(out, "tcp-server: accept: error ", client.error);
    }
}

static uint16_t port_of(texts arguments) {
    if (arguments.count < 2) return 8080;
    uint16_t port = 0;
    for (size_t i = 0; i < arguments.items[1].length; i++)
        port = (uint16_t)(port * 10 + arguments.items[1].data[i] - '0');
    return port;
}

RUN bool run(void) {
    texts arguments;
    get_arguments(&arguments);
    handle out = get_stdout();
    created socket;
    create_socket(IPV4, &socket);
    if (socket.is_error) return !fail(out, "tcp-server: create: error ", socket.error);
    handle pollable = socket_subscribe(socket.made);
    return !(bind_to(out, pollable, socket.made, port_of(arguments)) &&
             listen_on(out, pollable, socket.made) && tell_port(out, socket.made) &&
             serve(out, pollable, socket.made));
}
