// exit: ends with the exit code that it is told.
//
//     exit [N]    default 0
//
// WASI passes N on as it is, an unsigned number of 32 bits. What a host makes of one above 255, and some of
// one above 125, is up to the host.

#include <stdlib.h>

int main(int argc, char **argv) { exit(argc > 1 ? (int)strtoul(argv[1], NULL, 10) : 0); }
