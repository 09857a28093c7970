/* Makes one system call fail for the files in some folders, and says so on stderr. For LD_PRELOAD.

   FAULTY_CALL     open, mkdir, stat, rename or flock
   FAULTY_ERRNO    the number of the error
   FAULTY_FOLDERS  absolute paths of folders, separated by colons */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Returns whether this call has to fail. A null path stands for the descriptor itself. */
static int fails(const char *call, int descriptor, const char *path) {
    const char *wanted = getenv("FAULTY_CALL"), *folders = getenv("FAULTY_FOLDERS");
    if (!wanted || !folders || strcmp(wanted, call) != 0) return 0;
    char full[2 * PATH_MAX + 2] = "", link[64];
    size_t length = 0;
    if (!path || path[0] != '/') {
        snprintf(link, sizeof link, descriptor == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d",
                 descriptor);
        ssize_t got = readlink(link, full, PATH_MAX);
        if (got < 0) return 0;
        length = (size_t)got;
        full[length] = '\0';
    }
    if (path && path[0] != '\0')
        snprintf(full + length, sizeof full - length, "%s%s", length ? "/" : "", path);
    while (*folders) {
        size_t size = strcspn(folders, ":");
        if (strncmp(full, folders, size) == 0 && (full[size] == '\0' || full[size] == '/')) {
            dprintf(2, "faulty_files: %s %s\n", call, full);
            errno = atoi(getenv("FAULTY_ERRNO"));
            return 1;
        }
        folders += size + (folders[size] == ':');
    }
    return 0;
}

#define OPEN(name, parameters, descriptor, path, ...)                                           \
    int name parameters {                                                                       \
        mode_t mode = 0;                                                                        \
        if (flags & (O_CREAT | __O_TMPFILE)) {                                                  \
            va_list more;                                                                       \
            va_start(more, flags);                                                              \
            mode = va_arg(more, mode_t);                                                        \
            va_end(more);                                                                       \
        }                                                                                       \
        return fails("open", descriptor, path) ? -1 : REAL(name)(__VA_ARGS__, flags, mode);     \
    }
OPEN(open, (const char *path, int flags, ...), AT_FDCWD, path, path)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, path, path)
OPEN(openat, (int folder, const char *path, int flags, ...), folder, path, folder, path)
OPEN(openat64, (int folder, const char *path, int flags, ...), folder, path, folder, path)

DIR *opendir(const char *path) {
    return fails("open", AT_FDCWD, path) ? NULL : REAL(opendir)(path);
}

int mkdir(const char *path, mode_t mode) {
    return fails("mkdir", AT_FDCWD, path) ? -1 : REAL(mkdir)(path, mode);
}

int mkdirat(int folder, const char *path, mode_t mode) {
    return fails("mkdir", folder, path) ? -1 : REAL(mkdirat)(folder, path, mode);
}

int rename(const char *from, const char *to) {
    return fails("rename", AT_FDCWD, from) ? -1 : REAL(rename)(from, to);
}

int renameat(int folder, const char *from, int other, const char *to) {
    return fails("rename", folder, from) ? -1 : REAL(renameat)(folder, from, other, to);
}

int flock(int descriptor, int operation) {
    return fails("flock", descriptor, NULL) ? -1 : REAL(flock)(descriptor, operation);
}

#define STAT(name, type)                                                                        \
    int name(const char *path, struct type *status) {                                           \
        return fails("stat", AT_FDCWD, path) ? -1 : REAL(name)(path, status);                   \
    }
STAT(stat, stat)
STAT(lstat, stat)
STAT(stat64, stat64)
STAT(lstat64, stat64)

#define FSTAT(name, type)                                                                       \
    int name(int descriptor, struct type *status) {                                             \
        return fails("stat", descriptor, NULL) ? -1 : REAL(name)(descriptor, status);           \
    }
FSTAT(fstat, stat)
FSTAT(fstat64, stat64)

#define FSTATAT(name, type)                                                                     \
    int name(int folder, const char *path, struct type *status, int flags) {                    \
        return fails("stat", folder, path) ? -1 : REAL(name)(folder, path, status, flags);      \
    }
FSTATAT(fstatat, stat)
FSTATAT(fstatat64, stat64)
