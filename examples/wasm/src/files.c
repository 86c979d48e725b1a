// files: one verb per thing a guest can do to the folders it was given.
//
//     files read PATH              the content to stdout
//     files write PATH TEXT        exactly TEXT becomes the content
//     files append PATH TEXT       TEXT is added at the end
//     files ls PATH                sorted names; a folder ends in `/`, a symbolic link in `@`
//     files rm PATH                a file or an empty folder
//     files mkdir PATH
//     files mv A B
//     files stat PATH              one line; a symbolic link is described itself, not followed
//     files truncate PATH          to no bytes
//     files touch PATH [SECONDS]   makes it if need be; both times become now, or SECONDS after 1970
//     files link A B               B becomes another name of A
//     files symlink A B            B becomes a symbolic link that says A
//
// Exit code: 0; 1 with `files: VERB: PATH: REASON` on stderr; 2 for a wrong call.

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

// Every verb answers 0, or -1 with errno set. What is not given is NULL.
typedef int verb(const char *path, const char *other);

static int close_after(int fd, int result) {
    int reason = errno;
    close(fd);
    errno = reason;
    return result;
}

static int write_all(int fd, const char *from, size_t left) {
    while (left > 0) {
        ssize_t written = write(fd, from, left);
        if (written < 0) return -1;
        from += written;
        left -= (size_t)written;
    }
    return 0;
}

static int do_read(const char *path, const char *) {
    static char buffer[16 * 1024];
    int fd = open(path, O_RDONLY);
    if (fd < 0) return -1;
    for (;;) {
        ssize_t got = read(fd, buffer, sizeof buffer);
        if (got <= 0) return close_after(fd, (int)got);
        if (write_all(STDOUT_FILENO, buffer, (size_t)got) < 0) return close_after(fd, -1);
    }
}

static int put(const char *path, const char *text, int how) {
    int fd = open(path, O_WRONLY | O_CREAT | how, 0666);
    if (fd < 0) return -1;
    return close_after(fd, write_all(fd, text, strlen(text)));
}

static int do_write(const char *path, const char *text) { return put(path, text, O_TRUNC); }

static int do_append(const char *path, const char *text) { return put(path, text, O_APPEND); }

static int is_listed(const struct dirent *entry) {
    return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

static const char *mark(unsigned char type) { return type == DT_DIR ? "/" : type == DT_LNK ? "@" : ""; }

static int do_ls(const char *path, const char *) {
    struct dirent **entries;
    int count = scandir(path, &entries, is_listed, alphasort);
    for (int i = 0; i < count; i++) printf("%s%s\n", entries[i]->d_name, mark(entries[i]->d_type));
    return count < 0 ? -1 : 0;
}

static int do_rm(const char *path, const char *) { return remove(path); }

static int do_mkdir(const char *path, const char *) { return mkdir(path, 0777); }

static int do_mv(const char *from, const char *to) { return rename(from, to); }

static int do_stat(const char *path, const char *) {
    struct stat found;
    char target[1024] = "";
    if (lstat(path, &found) < 0) return -1;
    const char *type = S_ISDIR(found.st_mode) ? "dir" : S_ISREG(found.st_mode) ? "file" : "other";
    if (S_ISLNK(found.st_mode)) {
        type = "symlink";
        if (readlink(path, target, sizeof target - 1) < 0) return -1;
    }
    printf("type=%s size=%lld links=%llu mtime=%lld", type, (long long)found.st_size,
           (unsigned long long)found.st_nlink, (long long)found.st_mtim.tv_sec);
    printf(*target ? " target=%s\n" : "\n", target);
    return 0;
}

static int do_truncate(const char *path, const char *) { return truncate(path, 0); }

static int do_touch(const char *path, const char *seconds) {
    int fd = open(path, O_WRONLY | O_CREAT, 0666);
    if (fd < 0) return -1;
    time_t when = seconds ? strtoll(seconds, NULL, 10) : 0;
    struct timespec both[2] = {{.tv_sec = when}, {.tv_sec = when}};
    return close_after(fd, futimens(fd, seconds ? both : NULL));
}

static int do_link(const char *from, const char *to) { return link(from, to); }

static int do_symlink(const char *text, const char *to) { return symlink(text, to); }

static const struct {
    const char *name;
    verb *run;
    int fewest, most;
} verbs[] = {
    {"read", do_read, 1, 1},   {"write", do_write, 2, 2},       {"append", do_append, 2, 2},
    {"ls", do_ls, 1, 1},       {"rm", do_rm, 1, 1},             {"mkdir", do_mkdir, 1, 1},
    {"mv", do_mv, 2, 2},       {"stat", do_stat, 1, 1},         {"truncate", do_truncate, 1, 1},
    {"touch", do_touch, 1, 2}, {"link", do_link, 2, 2},         {"symlink", do_symlink, 2, 2},
};

int main(int argc, char **argv) {
    int given = argc - 2;
    for (size_t i = 0; argc > 1 && i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(argv[1], verbs[i].name) != 0) continue;
        if (given < verbs[i].fewest || given > verbs[i].most) break;
        if (verbs[i].run(argv[2], given > 1 ? argv[3] : NULL) == 0) return 0;
        fprintf(stderr, "files: %s: %s: %s\n", argv[1], argv[2], strerror(errno));
        return 1;
    }
    fputs("usage: files read|write|append|ls|rm|mkdir|mv|stat|truncate|touch|link|symlink PATH [MORE]\n", stderr);
    return 2;
}
