/* What a guest tries that has broken out of WasmEdge; tells each thing that worked on a line of its own.
   Its last argument is a process that is none of its business. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell(const char *what, long result) {
    if (result >= 0) puts(what);
}

static int processes(void) {
    int found = -1;
    DIR *folder = opendir("/proc");
    for (struct dirent *each; folder && (each = readdir(folder));)
        if (each->d_name[0] >= '1' && each->d_name[0] <= '9') found++;
    return found;
}

int main(int argc, char **argv) {
    pid_t victim = atoi(argv[argc - 1]);
    struct rlimit limit;
    struct stat ours, theirs;
    tell("sees processes", processes());
    tell("reads its module", open("/proc/self/fd/4", O_RDONLY));
    tell("writes to its module", write(open("/proc/self/fd/4", O_RDWR), "", 1));
    tell("truncates its module", truncate("/proc/self/fd/4", 1));
    tell("changes its module's mode", fchmod(4, 0644));
    tell("unlocks its module", syscall(SYS_flock, 4, 8));
    if (!fstat(3, &ours) && !fstatat(3, "..", &theirs, 0) && ours.st_ino != theirs.st_ino) puts("leaves by ..");
    tell("makes a file beside its name", openat(3, "new", O_CREAT | O_WRONLY, 0644));
    tell("sees private keys", open("/etc/ssl/private", O_RDONLY));
    tell("signals itself", kill(getpid(), 0));
    tell("signals another", kill(victim, 0));
    tell("signals another's thread", syscall(SYS_tgkill, victim, victim, 0));
    tell("signals a thread", syscall(SYS_tkill, victim, 0));
    tell("has a descriptor of another", syscall(SYS_pidfd_open, victim, 0));
    tell("traces another", ptrace(PTRACE_SEIZE, victim, 0, 0));
    tell("bounds another", prlimit(victim, RLIMIT_NOFILE, 0, &limit));
    tell("bounds itself", prlimit(0, RLIMIT_NOFILE, 0, &limit));
    tell("has another signalled", fcntl(0, F_SETOWN, victim));
    tell("slows another down", setpriority(PRIO_PROCESS, victim, 5));
    tell("leaves its group", setpgid(0, 0));
    tell("leaves its session", setsid());
    tell("has a user namespace", unshare(CLONE_NEWUSER));
    if (syscall(SYS_clone3, 0, 0) >= 0 || errno != ENOSYS) puts("has clone3");
    tell("clones into a namespace", syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0));
    tell("mounts", mount("none", "/", "tmpfs", 0, ""));
    tell("changes its root", chroot("/usr"));
    tell("makes a device", mknod("/rootfs/device", S_IFCHR | 0600, 0x103));
    tell("shares memory with the host", shmget(IPC_PRIVATE, 4096, IPC_CREAT));
    tell("has a local socket", socket(AF_UNIX, SOCK_STREAM, 0));
    tell("has a socket", socket(AF_INET, SOCK_STREAM, 0));
    return 0;
}
