// memhog: a guest that takes memory step by step and writes into every page of it.
//
//     memhog MIB [STEP] [abort] [hold]    STEP in MiB, default 1
//
// Prints `N MiB` after each step, N being what it has taken so far (some 128 KiB that it started with come
// on top). When more is refused it prints `refused at N MiB` and exits with 3; with `abort` it traps instead.
// With `hold` it keeps what it has, asleep, once it has all of it.
//
// It asks for pages (memory.grow) and not through malloc, which would round each step up as it likes.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { WASM_PAGE = 64 * 1024, PAGES_PER_MIB = 16, HOST_PAGE = 4096 };

static void touch(char *from, size_t size) {
    for (size_t i = 0; i < size; i += HOST_PAGE) ((volatile char *)from)[i] = 1;
}

// Grows by so many MiB and uses them; answers whether they were granted.
static int take(size_t mib) {
    size_t before = __builtin_wasm_memory_grow(0, mib * PAGES_PER_MIB);
    if (before == (size_t)-1) return 0;
    touch((char *)(before * WASM_PAGE), mib * PAGES_PER_MIB * WASM_PAGE);
    return 1;
}

static int has_word(int argc, char **argv, const char *word) {
    for (int i = 2; i < argc; i++)
        if (strcmp(argv[i], word) == 0) return 1;
    return 0;
}

static void sleep_for_ever(void) {
    for (;;) nanosleep(&(struct timespec){.tv_sec = 3600}, NULL);
}

int main(int argc, char **argv) {
    size_t wanted = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    size_t step = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    if (step == 0) step = 1;
    for (size_t taken = 0; taken < wanted; taken += step) {
        if (step > wanted - taken) step = wanted - taken;
        if (!take(step)) {
            printf("refused at %zu MiB\n", taken);
            fflush(stdout);
            if (has_word(argc, argv, "abort")) __builtin_trap();
            return 3;
        }
        printf("%zu MiB\n", taken + step);
        fflush(stdout);
    }
    if (has_word(argc, argv, "hold")) sleep_for_ever();
    return 0;
}
