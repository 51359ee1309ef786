/* Lets the disk be full: calls that would need room for files below a folder fail with ENOSPC.

   Loaded before libc (LD_PRELOAD). A process takes part once FULL_ROOT is in its environment, and so do its children.

     FULL_ROOT   absolute path of the folder; what is outside of it has room
     FULL_WHEN   file: the disk is full while it exists
     FULL_AFTER  number of bytes that are still written below the folder; then the disk is full for good. Without it,
                 FULL_WHEN alone decides

   A write that does not fit whole is done in part, as a disk does it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))

static atomic_long room = LONG_MIN;

/* Whether a path is that folder, or below it. */
static int below(const char *path) {
    const char *root = getenv("FULL_ROOT");
    if (!root || strncmp(path, root, strlen(root))) return 0;
    char end = path[strlen(root)];
    return !end || end == '/';
}

/* How many of `size` bytes the disk takes for a file; -1 is written to `errno` by the caller where that is none. */
static size_t fitting(int file, size_t size) {
    const char *when = getenv("FULL_WHEN"), *after = getenv("FULL_AFTER");
    if (!getenv("FULL_ROOT")) return size;
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return size;
    path[length] = 0;
    if (!below(path)) return size;
    if (when && !access(when, F_OK)) return 0;
    if (!after) return size;
    if (room == LONG_MIN) room = atol(after);
    long left = atomic_fetch_sub(&room, (long)size);
    if (left >= (long)size) return size;
    return left > 0 ? (size_t)left : 0;
}

#define FITTED(file, size) \
    size_t fits = fitting(file, size); \
    if (!fits && (size)) { errno = ENOSPC; return -1; }

ssize_t write(int file, const void *data, size_t size) {
    FITTED(file, size)
    return REAL(write)(file, data, fits);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    FITTED(file, size)
    return REAL(pwrite64)(file, data, fits, offset);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) { return pwrite64(file, data, size, offset); }

ssize_t writev(int file, const struct iovec *parts, int number) {
    size_t size = 0;
    for (int i = 0; i < number; i++) size += parts[i].iov_len;
    FITTED(file, size)
    if (fits < size) { errno = ENOSPC; return -1; }
    return REAL(writev)(file, parts, number);
}

ssize_t sendfile64(int to, int from, off64_t *offset, size_t size) {
    FITTED(to, size)
    return REAL(sendfile64)(to, from, offset, fits);
}

ssize_t sendfile(int to, int from, off_t *offset, size_t size) { return sendfile64(to, from, offset, size); }

ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t size, unsigned flags) {
    FITTED(to, size)
    return REAL(copy_file_range)(from, a, to, b, fits, flags);
}

int posix_fallocate64(int file, off64_t offset, off64_t size) {
    if (fitting(file, size) < (size_t)size) return ENOSPC;
    return REAL(posix_fallocate64)(file, offset, size);
}

int posix_fallocate(int file, off_t offset, off_t size) { return posix_fallocate64(file, offset, size); }

int statvfs64(const char *path, struct statvfs64 *found) {
    const char *when = getenv("FULL_WHEN");
    char whole[PATH_MAX];
    int failed = REAL(statvfs64)(path, found);
    if (!failed && when && !access(when, F_OK) && realpath(path, whole) && below(whole)) found->f_bfree = found->f_bavail = 0;
    return failed;
}

int statvfs(const char *path, struct statvfs *found) { return statvfs64(path, (struct statvfs64 *)found); }
