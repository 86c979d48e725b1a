// flood: lines to stdout as fast as they are taken.
//
//     flood            for ever
//     flood BYTES      exactly so many bytes; the last line may be cut short
//
// A line is 64 bytes with its line feed. Exit code: 0, or 1 when stdout takes no more.

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char line[] = "flood 0123456789 abcdefghijklmnopqrstuvwxyz 0123456789 the end.\n";
static char buffer[64 * 1024];
_Static_assert(sizeof line - 1 == 64 && sizeof buffer % 64 == 0, "each piece ends with a whole line");

int main(int argc, char **argv) {
    for (size_t i = 0; i < sizeof buffer; i += 64) memcpy(buffer + i, line, 64);
    uint64_t left = argc > 1 ? strtoull(argv[1], NULL, 10) : UINT64_MAX;
    size_t at = 0;  // where in the buffer the next byte stands: a write may stop within a line
    while (left > 0) {
        size_t piece = sizeof buffer - at;
        if (piece > left) piece = (size_t)left;
        ssize_t written = write(STDOUT_FILENO, buffer + at, piece);
        if (written < 0) return 1;
        at = (at + (size_t)written) % sizeof buffer;
        if (argc > 1) left -= (uint64_t)written;
    }
    return 0;
}
