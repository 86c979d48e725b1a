// args: what a guest is told when it starts.
//
//     args ANYTHING…
//
// Prints `argv[i]=…` for each argument, argv[0] first, then each environment variable as `K=V`, sorted.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int main(int argc, char **argv) {
    for (int i = 0; i < argc; i++) printf("argv[%d]=%s\n", i, argv[i]);
    size_t count = 0;
    while (environ[count] != NULL) count++;
    qsort(environ, count, sizeof *environ, by_text);
    for (size_t i = 0; i < count; i++) puts(environ[i]);
    return 0;
}
