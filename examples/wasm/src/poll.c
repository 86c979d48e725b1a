// poll: WASI's one way to wait, poll_oneoff, called directly in each of its forms.
//
//     poll clock MS           relative, monotonic clock       `clock N ms`, N being the time that passed
//     poll abs MS             absolute, monotonic clock       `clock N ms`
//     poll realtime MS        relative, realtime clock        `clock N ms`
//     poll realtime-abs MS    absolute, realtime clock        `clock N ms`
//     poll stdin MS           stdin or a clock                `stdin`, or `clock N ms`, or both lines
//     poll stdout             room on stdout                  `ready`
//     poll file PATH          something to read in a file     `ready NBYTES`
//     poll badfd              descriptor 99, which is none    `event errno E` or `call errno E`
//     poll many               clocks of 10, 20 and 30 ms      `N events: …`, their userdata: 10, 20, 30
//     poll none               no subscription at all          `call errno E`
//
// Exit code: 0; 1 when an event that should do well carries an error; 2 for a wrong call.

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <wasi/api.h>

enum { MOST = 3, NO_SUCH_FD = 99 };
static const uint64_t ms_in_ns = 1000000;

static __wasi_subscription_t subscriptions[MOST];
static __wasi_event_t events[MOST];

static uint64_t now(__wasi_clockid_t clock) {
    __wasi_timestamp_t time = 0;
    (void)__wasi_clock_time_get(clock, 1, &time);
    return time;
}

static __wasi_subscription_t on_clock(uint64_t userdata, __wasi_clockid_t clock, uint64_t ms, int absolute) {
    __wasi_subscription_t made = {.userdata = userdata};
    made.u.tag = __WASI_EVENTTYPE_CLOCK;
    made.u.u.clock.id = clock;
    made.u.u.clock.timeout = ms * ms_in_ns + (absolute ? now(clock) : 0);
    made.u.u.clock.flags = absolute ? __WASI_SUBCLOCKFLAGS_SUBSCRIPTION_CLOCK_ABSTIME : 0;
    return made;
}

static __wasi_subscription_t on_fd(uint64_t userdata, __wasi_eventtype_t type, int fd) {
    __wasi_subscription_t made = {.userdata = userdata};
    made.u.tag = type;
    if (type == __WASI_EVENTTYPE_FD_READ) made.u.u.fd_read.file_descriptor = fd;
    if (type == __WASI_EVENTTYPE_FD_WRITE) made.u.u.fd_write.file_descriptor = fd;
    return made;
}

// Waits for the first so many subscriptions. Answers how many events came; says so and exits where none can.
static size_t wait_for(size_t count) {
    __wasi_size_t came = 0;
    __wasi_errno_t refused = __wasi_poll_oneoff(subscriptions, events, count, &came);
    if (refused == 0) return came;
    printf("call errno %d\n", refused);
    exit(0);
}

static void expect_no_error(const __wasi_event_t *event) {
    if (event->error == 0) return;
    printf("event errno %d\n", event->error);
    exit(1);
}

static void print_events(size_t came, uint64_t started) {
    for (size_t i = 0; i < came; i++) {
        expect_no_error(&events[i]);
        if (events[i].type == __WASI_EVENTTYPE_FD_READ) puts("stdin");
        if (events[i].type != __WASI_EVENTTYPE_CLOCK) continue;
        printf("clock %llu ms\n", (now(__WASI_CLOCKID_MONOTONIC) - started) / ms_in_ns);
    }
}

static void poll_clock(__wasi_clockid_t clock, const char *ms, int absolute) {
    uint64_t started = now(__WASI_CLOCKID_MONOTONIC);
    subscriptions[0] = on_clock(1, clock, strtoull(ms, NULL, 10), absolute);
    print_events(wait_for(1), started);
}

static void poll_stdin(const char *ms) {
    uint64_t started = now(__WASI_CLOCKID_MONOTONIC);
    subscriptions[0] = on_fd(1, __WASI_EVENTTYPE_FD_READ, STDIN_FILENO);
    subscriptions[1] = on_clock(2, __WASI_CLOCKID_MONOTONIC, strtoull(ms, NULL, 10), 0);
    print_events(wait_for(2), started);
}

static void poll_stdout(void) {
    subscriptions[0] = on_fd(1, __WASI_EVENTTYPE_FD_WRITE, STDOUT_FILENO);
    wait_for(1);
    expect_no_error(&events[0]);
    puts("ready");
}

static void poll_file(const char *path) {
    int fd = open(path, O_RDONLY);
    if (fd < 0) {
        perror(path);
        exit(1);
    }
    subscriptions[0] = on_fd(1, __WASI_EVENTTYPE_FD_READ, fd);
    wait_for(1);
    expect_no_error(&events[0]);
    printf("ready %llu\n", events[0].fd_readwrite.nbytes);
}

static void poll_bad_fd(void) {
    subscriptions[0] = on_fd(1, __WASI_EVENTTYPE_FD_READ, NO_SUCH_FD);
    wait_for(1);
    printf("event errno %d\n", events[0].error);
}

static void poll_many(void) {
    for (uint64_t i = 0; i < MOST; i++)
        subscriptions[i] = on_clock((i + 1) * 10, __WASI_CLOCKID_MONOTONIC, (i + 1) * 10, 0);
    size_t came = wait_for(MOST);
    printf("%zu events:", came);
    for (size_t i = 0; i < came; i++) printf(" %llu", events[i].userdata);
    puts("");
}

static void poll_none(void) { printf("%zu events\n", wait_for(0)); }

static int called(const char *verb, int arguments, int argc, char **argv) {
    return argc == arguments + 2 && strcmp(argv[1], verb) == 0;
}

int main(int argc, char **argv) {
    if (called("clock", 1, argc, argv)) poll_clock(__WASI_CLOCKID_MONOTONIC, argv[2], 0);
    else if (called("abs", 1, argc, argv)) poll_clock(__WASI_CLOCKID_MONOTONIC, argv[2], 1);
    else if (called("realtime", 1, argc, argv)) poll_clock(__WASI_CLOCKID_REALTIME, argv[2], 0);
    else if (called("realtime-abs", 1, argc, argv)) poll_clock(__WASI_CLOCKID_REALTIME, argv[2], 1);
    else if (called("stdin", 1, argc, argv)) poll_stdin(argv[2]);
    else if (called("stdout", 0, argc, argv)) poll_stdout();
    else if (called("file", 1, argc, argv)) poll_file(argv[2]);
    else if (called("badfd", 0, argc, argv)) poll_bad_fd();
    else if (called("many", 0, argc, argv)) poll_many();
    else if (called("none", 0, argc, argv)) poll_none();
    else {
        fputs("usage: poll clock|abs|realtime|realtime-abs|stdin MS | stdout | file PATH | badfd | many | none\n",
              stderr);
        return 2;
    }
    return 0;
}
