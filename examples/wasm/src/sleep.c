// sleep: a guest that waits without using the processor. The C library waits with WASI's poll_oneoff.
//
//     sleep [SECONDS]    default 1; fractions are fine
//     sleep forever      an hour at a time, for ever
//
// Prints `slept` at the end.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void wait_for(double seconds) {
    time_t whole = (time_t)seconds;
    struct timespec pause = {.tv_sec = whole, .tv_nsec = (long)((seconds - (double)whole) * 1e9)};
    nanosleep(&pause, NULL);
}

int main(int argc, char **argv) {
    const char *how_long = argc > 1 ? argv[1] : "1";
    while (strcmp(how_long, "forever") == 0) wait_for(3600);
    wait_for(strtod(how_long, NULL));
    puts("slept");
    return 0;
}
