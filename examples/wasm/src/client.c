// client: a component that asks others, with what WASI 0.2 has for it.
//
//     client time                      seconds since 1970, from the wall clock
//     client random                    sixteen random hexadecimal digits
//     client lookup NAME               the name's addresses, a line for each
//     client udp A.B.C.D PORT TEXT     sends TEXT in a datagram; prints the datagram that comes back
//     client get AUTHORITY PATH        asks by HTTP; prints the status, then the body
//
// What fails ends it with an error; what failed is printed as `client: STEP: error E`, E being the number of the
// error-code of wasi:sockets/network, or 255 where the interface has an error of its own.
// Its frame is client.wat.

#include "component/sockets.h"

enum { HTTP = 0, SOME = 1, OTHER = 255 };  // cases of scheme and option, and no error-code

// result<tuple<incoming-datagram-stream, outgoing-datagram-stream>, error-code>
typedef struct {
    uint8_t is_error;
    union {
        struct {
            handle incoming, outgoing;
        };
        uint8_t error;
    };
} opened;

// result<u64, error-code>
typedef struct {
    uint8_t is_error;
    union {
        uint64_t number;
        uint8_t error;
    };
} counted;

// ip-socket-address, as far as an IPv4 address goes; the rest is room for the longer IPv6 address.
typedef struct {
    uint8_t family;
    union {
        uint16_t port;
        uint32_t ipv6[7];
    };
} socket_address;

// outgoing-datagram, whose address is left out: its stream has one.
typedef struct {
    text data;
    uint8_t has_address;
    socket_address address;
} outgoing_datagram;

typedef struct {
    text data;
    socket_address from;
} incoming_datagram;

// result<list<incoming-datagram>, error-code>
typedef struct {
    uint8_t is_error;
    union {
        struct {
            const incoming_datagram *items;
            size_t count;
        };
        uint8_t error;
    };
} received;

// result<option<ip-address>, error-code>
typedef struct {
    uint8_t is_error;
    union {
        uint8_t error;
        struct {
            uint8_t is_some;
            struct {
                uint8_t family;
                union {
                    uint8_t ipv4[4];
                    uint16_t ipv6[8];
                };
            } address;
        };
    };
} resolved;
_Static_assert(offsetof(resolved, address) == 4 && sizeof(resolved) == 22, "as the canonical ABI lays it out");

typedef struct {
    uint64_t seconds;
    uint32_t nanoseconds;
} datetime;

// result<future-incoming-response, error-code> of wasi:http, whose error-code has a u64 in it, hence the alignment.
typedef struct {
    uint8_t is_error;
    _Alignas(8) handle future;
    uint8_t error[32];
} asked;

// option<result<result<incoming-response, error-code>>>
typedef struct {
    uint8_t is_some;
    _Alignas(8) uint8_t is_taken;
    _Alignas(8) uint8_t is_error;
    _Alignas(8) handle response;
    uint8_t error[32];
} answered;
_Static_assert(offsetof(answered, response) == 24, "as the canonical ABI lays it out");

// result<HANDLE>
typedef struct {
    uint8_t is_error;
    handle made;
} taken;

// result<list<u8>, stream-error>
typedef struct {
    uint8_t is_error;
    union {
        text data;
        struct {
            uint8_t kind;
            handle detail;
        } error;
    };
} piece;

IMPORT("wasi:clocks/wall-clock@0.2.0", "now")
void wall_clock_now(datetime *result);

IMPORT("wasi:random/random@0.2.0", "get-random-u64")
uint64_t get_random(void);

IMPORT("wasi:sockets/ip-name-lookup@0.2.0", "resolve-addresses")
void resolve_addresses(handle network, const char *name, size_t length, created *result);

IMPORT("wasi:sockets/ip-name-lookup@0.2.0", "[method]resolve-address-stream.resolve-next-address")
void resolve_next_address(handle stream, resolved *result);

IMPORT("wasi:sockets/ip-name-lookup@0.2.0", "[method]resolve-address-stream.subscribe")
handle resolve_subscribe(handle stream);

IMPORT("wasi:sockets/udp-create-socket@0.2.0", "create-udp-socket")
void create_socket(int32_t family, created *result);

IMPORT("wasi:sockets/udp@0.2.0", "[method]udp-socket.start-bind")
void start_bind(handle socket, handle network, ADDRESS, outcome *result);

IMPORT("wasi:sockets/udp@0.2.0", "[method]udp-socket.finish-bind")
void finish_bind(handle socket, outcome *result);

IMPORT("wasi:sockets/udp@0.2.0", "[method]udp-socket.stream")
void socket_stream(handle socket, int32_t has_remote, ADDRESS, opened *result);

IMPORT("wasi:sockets/udp@0.2.0", "[method]udp-socket.subscribe")
handle socket_subscribe(handle socket);

IMPORT("wasi:sockets/udp@0.2.0", "[method]outgoing-datagram-stream.check-send")
void check_send(handle stream, counted *result);

IMPORT("wasi:sockets/udp@0.2.0", "[method]outgoing-datagram-stream.send")
void send_datagrams(handle stream, const outgoing_datagram *items, size_t count, counted *result);

IMPORT("wasi:sockets/udp@0.2.0", "[method]outgoing-datagram-stream.subscribe")
handle outgoing_subscribe(handle stream);

IMPORT("wasi:sockets/udp@0.2.0", "[method]incoming-datagram-stream.receive")
void receive_datagrams(handle stream, uint64_t most, received *result);

IMPORT("wasi:sockets/udp@0.2.0", "[method]incoming-datagram-stream.subscribe")
handle incoming_subscribe(handle stream);

IMPORT("wasi:http/types@0.2.0", "[constructor]fields")
handle new_fields(void);

IMPORT("wasi:http/types@0.2.0", "[constructor]outgoing-request")
handle new_request(handle fields);

// Each of the three answers whether it was refused.
IMPORT("wasi:http/types@0.2.0", "[method]outgoing-request.set-scheme")
int32_t set_scheme(handle request, int32_t is_some, int32_t which, const char *other, size_t length);

IMPORT("wasi:http/types@0.2.0", "[method]outgoing-request.set-authority")
int32_t set_authority(handle request, int32_t is_some, const char *text, size_t length);

IMPORT("wasi:http/types@0.2.0", "[method]outgoing-request.set-path-with-query")
int32_t set_path(handle request, int32_t is_some, const char *text, size_t length);

IMPORT("wasi:http/outgoing-handler@0.2.0", "handle")
void ask(handle request, int32_t has_options, handle options, asked *result);

IMPORT("wasi:http/types@0.2.0", "[method]future-incoming-response.subscribe")
handle future_subscribe(handle future);

IMPORT("wasi:http/types@0.2.0", "[method]future-incoming-response.get")
void future_get(handle future, answered *result);

IMPORT("wasi:http/types@0.2.0", "[method]incoming-response.status")
int32_t response_status(handle response);

IMPORT("wasi:http/types@0.2.0", "[method]incoming-response.consume")
void response_consume(handle response, taken *result);

IMPORT("wasi:http/types@0.2.0", "[method]incoming-body.stream")
void body_stream(handle body, taken *result);

IMPORT("wasi:io/streams@0.2.0", "[method]input-stream.blocking-read")
void stream_read(handle stream, uint64_t most, piece *result);

static handle out;

static bool say(const char *literal) { return write_text(out, of_literal(literal)); }

static bool say_number(uint32_t number) {
    char room[10];
    return write_text(out, of_number(number, room));
}

static bool fail(const char *step, uint8_t error) {
    say("client: ");
    say(step);
    say(": error ");
    say_number(error);
    say("\n");
    return false;
}

static bool equal(text one, const char *literal) {
    text other = of_literal(literal);
    if (one.length != other.length) return false;
    for (size_t i = 0; i < one.length; i++)
        if (one.data[i] != other.data[i]) return false;
    return true;
}

// Reads a number and goes on behind it and the one sign that follows.
static uint32_t take_number(text *from) {
    uint32_t number = 0;
    while (from->length > 0 && *from->data >= '0' && *from->data <= '9') {
        number = number * 10 + (uint32_t)(*from->data++ - '0');
        from->length--;
    }
    if (from->length > 0) from->data++, from->length--;
    return number;
}

static bool tell_time(void) {
    datetime now;
    wall_clock_now(&now);
    return say_number((uint32_t)now.seconds) && say("\n");
}

static bool tell_random(void) {
    uint64_t number = get_random();
    char digits[17];
    for (int i = 0; i < 16; i++, number >>= 4) digits[i] = "0123456789abcdef"[number & 15];
    digits[16] = '\n';
    return write_text(out, (text){digits, sizeof digits});
}

static void tell_address(const resolved *found) {
    if (found->address.family == IPV4) {
        for (int i = 0; i < 4; i++) {
            if (i > 0) say(".");
            say_number(found->address.ipv4[i]);
        }
    } else {
        for (int i = 0; i < 8; i++) {
            if (i > 0) say(":");
            char digits[4];
            for (int j = 0; j < 4; j++) digits[j] = "0123456789abcdef"[found->address.ipv6[i] >> (12 - 4 * j) & 15];
            write_text(out, (text){digits, sizeof digits});
        }
    }
    say("\n");
}

static bool look_up(text name) {
    created stream;
    resolve_addresses(instance_network(), name.data, name.length, &stream);
    if (stream.is_error) return fail("look up", stream.error);
    handle pollable = resolve_subscribe(stream.made);
    for (;;) {
        resolved next;
        resolve_next_address(stream.made, &next);
        if (next.is_error && next.error == WOULD_BLOCK) pollable_block(pollable);
        else if (next.is_error) return fail("look up", next.error);
        else if (!next.is_some) return true;
        else tell_address(&next);
    }
}

static bool bind_anywhere(handle socket) {
    outcome result;
    start_bind(socket, instance_network(), IPV4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, &result);
    handle pollable = socket_subscribe(socket);
    while (!result.is_error) {
        finish_bind(socket, &result);
        if (!result.is_error) return true;
        if (result.error == WOULD_BLOCK) pollable_block(pollable), result.is_error = false;
    }
    return fail("bind", result.error);
}

static bool send_one(handle stream, text data) {
    counted result;
    handle pollable = outgoing_subscribe(stream);
    for (check_send(stream, &result); !result.is_error && result.number == 0; check_send(stream, &result))
        pollable_block(pollable);
    outgoing_datagram datagram = {data, 0, {0}};
    if (!result.is_error) send_datagrams(stream, &datagram, 1, &result);
    return !result.is_error || fail("send", result.error);
}

static bool receive_one(handle stream) {
    handle pollable = incoming_subscribe(stream);
    for (;;) {
        received result;
        receive_datagrams(stream, 1, &result);
        if (result.is_error) return fail("receive", result.error);
        if (result.count > 0) return write_text(out, result.items[0].data) && say("\n");
        pollable_block(pollable);
    }
}

static bool exchange(text address, text port, text data) {
    created socket;
    opened streams;
    create_socket(IPV4, &socket);
    if (socket.is_error) return fail("create", socket.error);
    if (!bind_anywhere(socket.made)) return false;
    int32_t a = (int32_t)take_number(&address), b = (int32_t)take_number(&address);
    int32_t c = (int32_t)take_number(&address), d = (int32_t)take_number(&address);
    socket_stream(socket.made, SOME, IPV4, (int32_t)take_number(&port), a, b, c, d, 0, 0, 0, 0, 0, 0, &streams);
    if (streams.is_error) return fail("connect", streams.error);
    return send_one(streams.outgoing, data) && receive_one(streams.incoming);
}

static bool tell_body(handle response) {
    taken body, stream;
    response_consume(response, &body);
    if (body.is_error) return fail("consume", OTHER);
    body_stream(body.made, &stream);
    if (stream.is_error) return fail("body", OTHER);
    for (;;) {
        piece next;
        stream_read(stream.made, WRITE_MOST, &next);
        if (next.is_error) return next.error.kind != LAST_OPERATION_FAILED || fail("read", OTHER);
        write_text(out, next.data);
    }
}

static bool get(text authority, text path) {
    asked result;
    handle request = new_request(new_fields());
    if (set_scheme(request, SOME, HTTP, 0, 0) || set_authority(request, SOME, authority.data, authority.length) ||
        set_path(request, SOME, path.data, path.length))
        return fail("request", OTHER);
    ask(request, 0, 0, &result);
    if (result.is_error) return fail("ask", OTHER);
    pollable_block(future_subscribe(result.future));
    answered answer;
    future_get(result.future, &answer);
    if (!answer.is_some || answer.is_taken || answer.is_error) return fail("answer", OTHER);
    say_number((uint32_t)response_status(answer.response));
    say("\n");
    return tell_body(answer.response);
}

static bool act(texts arguments) {
    if (arguments.count < 2) return fail("no word", OTHER);
    text word = arguments.items[1];
    const text *rest = arguments.items + 2;
    size_t count = arguments.count - 2;
    if (equal(word, "time")) return tell_time();
    if (equal(word, "random")) return tell_random();
    if (equal(word, "lookup") && count == 1) return look_up(rest[0]);
    if (equal(word, "udp") && count == 3) return exchange(rest[0], rest[1], rest[2]);
    if (equal(word, "get") && count == 2) return get(rest[0], rest[1]);
    return fail("unknown word", OTHER);
}

RUN bool run(void) {
    texts arguments;
    get_arguments(&arguments);
    out = get_stdout();
    return !act(arguments);
}
