// cat: bytes through a guest, unchanged, in large pieces.
//
//     cat            stdin to stdout
//     cat FILE…      the files to stdout, one after the other
//
// Exit code: 0, or 1 when something could not be read or written.

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char buffer[64 * 1024];

static bool write_all(const char *from, size_t left) {
    while (left > 0) {
        ssize_t written = write(STDOUT_FILENO, from, left);
        if (written < 0) return false;
        from += written;
        left -= (size_t)written;
    }
    return true;
}

static bool copy(int fd) {
    for (;;) {
        ssize_t got = read(fd, buffer, sizeof buffer);
        if (got <= 0) return got == 0;
        if (!write_all(buffer, (size_t)got)) return false;
    }
}

static bool copy_file(const char *path) {
    int fd = open(path, O_RDONLY);
    bool copied = fd >= 0 && copy(fd);
    if (!copied) fprintf(stderr, "cat: %s: %s\n", path, strerror(errno));
    if (fd >= 0) close(fd);
    return copied;
}

int main(int argc, char **argv) {
    bool well = true;
    if (argc == 1) {
        well = copy(STDIN_FILENO);
        if (!well) fprintf(stderr, "cat: stdin: %s\n", strerror(errno));
    }
    for (int i = 1; i < argc; i++) well &= copy_file(argv[i]);
    return well ? 0 : 1;
}
