// spin: a guest that uses all the processor it can get and, without an argument, never calls its host.
//
//     spin              for ever
//     spin SECONDS      then prints `spun`; fractions are fine

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

// Volatile, so that the compiler must leave the work in.
static volatile unsigned long long rounds;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void work(void) {
    for (int i = 0; i < 100000; i++) rounds = rounds + 1;
}

int main(int argc, char **argv) {
    while (argc == 1) work();
    double end = now() + strtod(argv[1], NULL);
    while (now() < end) work();
    puts("spun");
    return 0;
}
