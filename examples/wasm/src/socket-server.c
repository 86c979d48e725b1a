// socket-server: a TCP server by WasmEdge's sockets, which preview 1 itself does not have; one connection after the
// other, for ever.
//
//     socket-server [PORT]    on 0.0.0.0; default 8080; 0 lets the host choose
//
// Prints `listening on port N`. Each connection gets `hello N` and a line feed, N being how many connections there
// have been, and is then closed. Ends only when it cannot listen or cannot accept: then it prints
// `socket-server: STEP: error E`, E being WASI's errno, and exits with 1.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define IMPORT(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(name)))

enum { IPV4 = 1, STREAM = 2, BACKLOG = 128 };

// An address is its bytes: four for IPv4.
typedef struct {
    uint8_t *bytes;
    uint32_t length;
} address;

IMPORT("sock_open") uint32_t sock_open(uint32_t family, uint32_t type, uint32_t *socket);
IMPORT("sock_bind") uint32_t sock_bind(uint32_t socket, address *at, uint32_t port);
IMPORT("sock_listen") uint32_t sock_listen(uint32_t socket, uint32_t backlog);
IMPORT("sock_accept") uint32_t accept_on(uint32_t socket, uint32_t *connection);
IMPORT("sock_getlocaladdr") uint32_t local_address(uint32_t socket, address *at, uint32_t *family, uint32_t *port);

static void check(const char *step, uint32_t error) {
    if (error == 0) return;
    printf("socket-server: %s: error %u\n", step, error);
    exit(1);
}

static uint32_t listen_on(uint32_t port) {
    uint8_t any[4] = {0, 0, 0, 0}, bound[16];
    address at = {any, sizeof any}, local = {bound, 4};
    uint32_t socket, family = 0;
    check("open", sock_open(IPV4, STREAM, &socket));
    check("bind", sock_bind(socket, &at, port));
    check("listen", sock_listen(socket, BACKLOG));
    check("address", local_address(socket, &local, &family, &port));
    printf("listening on port %u\n", port);
    fflush(stdout);
    return socket;
}

int main(int argc, char **argv) {
    uint32_t listening = listen_on(argc > 1 ? (uint32_t)atoi(argv[1]) : 8080);
    for (unsigned count = 1;; count++) {
        uint32_t connection;
        check("accept", accept_on(listening, &connection));
        char line[32];
        int length = snprintf(line, sizeof line, "hello %u\n", count);
        if (write((int)connection, line, (size_t)length) != length) printf("socket-server: connection lost\n");
        close((int)connection);
    }
}
