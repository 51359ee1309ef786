/* Counts the calls by which one process changes files below a folder, and ends the process at one of them.

   Loaded before libc (LD_PRELOAD). A process takes part once KILL_ROOT is in its environment, and its children do not.

     KILL_ROOT  absolute path of the folder
     KILL_AT    number of the call, from 1 on, in front of which the process ends by SIGKILL; 0 for none
     KILL_TORN  1: of a write, half is written first
     KILL_LOG   file that gets a line for each call: its number, its name, and the path
     KILL_LOSE  1: then the power fails, too, see power.h; 2: names stay, and data that were not synced are lost
     KILL_VAULT with KILL_LOSE: folder of the same file system, outside of KILL_ROOT, for what it needs

   Data that reach a file through a mapping are the kernel's as soon as they are stored: no call is missing for them. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((typeof(&name))real(#name))

static char root[PATH_MAX];
static long at;
static int torn, journal = -1;
static pid_t owner;
static atomic_long count;

static void *real(const char *name) { return dlsym(RTLD_NEXT, name); }

#include "power.h"

/* Whether this process takes part; it is asked for until its environment says so. */
static int watching(void) {
    if (undoing) return 0;
    if (owner) return owner == getpid();
    const char *folder = getenv("KILL_ROOT");
    if (!folder) return 0;
    snprintf(root, sizeof root, "%s", folder);
    at = getenv("KILL_AT") ? atol(getenv("KILL_AT")) : 0;
    torn = getenv("KILL_TORN") && atoi(getenv("KILL_TORN"));
    lose = getenv("KILL_LOSE") ? atoi(getenv("KILL_LOSE")) : 0;
    if (lose) snprintf(vault, sizeof vault, "%s", getenv("KILL_VAULT"));
    if (getenv("KILL_LOG")) journal = syscall(SYS_openat, AT_FDCWD, getenv("KILL_LOG"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    owner = getpid();
    unsetenv("KILL_ROOT");
    unsetenv("LD_PRELOAD");
    return 1;
}

static int below(const char *path) {
    size_t length = strlen(root);
    return !strncmp(path, root, length) && (path[length] == '/' || !path[length]);
}

/* The absolute path of a name, if this process takes part and it lies below the folder; else NULL. */
static const char *named(int folder, const char *name, char *buffer) {
    if (!watching() || !name) return NULL;
    if (name[0] == '/') snprintf(buffer, PATH_MAX, "%s", name);
    else {
        char base[PATH_MAX], link[64];
        ssize_t length = -1;
        if (folder == AT_FDCWD) length = getcwd(base, sizeof base) ? (ssize_t)strlen(base) : -1;
        else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            length = readlink(link, base, sizeof base - 1);
        }
        if (length < 0) return NULL;
        base[length] = 0;
        snprintf(buffer, PATH_MAX, "%.2000s/%.2000s", base, name);
    }
    return below(buffer) ? buffer : NULL;
}

static const char *opened(int file, char *buffer) {
    if (!watching()) return NULL;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, buffer, PATH_MAX - 1);
    if (length < 0) return NULL;
    buffer[length] = 0;
    return below(buffer) ? buffer : NULL;
}

static void end(void) {
    fail();
    kill(getpid(), SIGKILL);
}

/* One more call. Returns whether the process ends at it, for a write that has to be torn first. */
static int met(const char *call, const char *path, int may_tear) {
    long number = atomic_fetch_add(&count, 1) + 1;
    if (journal >= 0) {
        char line[PATH_MAX + 64];
        int length = snprintf(line, sizeof line, "%ld %s %s\n", number, call, path);
        syscall(SYS_write, journal, line, (size_t)length);
    }
    if (number != at) return 0;
    if (!(torn && may_tear)) end();
    return 1;
}

#define AT_PATH(call, folder, name, then) \
    { char p[PATH_MAX]; const char *f = named(folder, name, p); if (f) { met(call, f, 0); then; } }
#define AT_FILE(call, file, then) \
    { char p[PATH_MAX]; const char *f = opened(file, p); if (f) { met(call, f, 0); then; } }

/* ------------------------------------------------------------------------------------------------------------ writes */
ssize_t write(int file, const void *data, size_t size) {
    char p[PATH_MAX];
    const char *f = opened(file, p);
    int last = f && met("write", f, size > 1);
    if (f) note_write(file, size);
    if (last) { REAL(write)(file, data, size / 2); end(); }
    return REAL(write)(file, data, size);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t offset) {
    char p[PATH_MAX];
    const char *f = opened(file, p);
    int last = f && met("write", f, size > 1);
    if (f) note_data(DATA, file, offset, size);
    if (last) { REAL(pwrite64)(file, data, size / 2, offset); end(); }
    return REAL(pwrite64)(file, data, size, offset);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t offset) { return pwrite64(file, data, size, offset); }

ssize_t writev(int file, const struct iovec *parts, int number) {
    off64_t size = 0;
    for (int i = 0; i < number; i++) size += parts[i].iov_len;
    AT_FILE("write", file, note_write(file, size));
    return REAL(writev)(file, parts, number);
}

ssize_t sendfile64(int to, int from, off64_t *offset, size_t size) {
    AT_FILE("write", to, note_write(to, size));
    ssize_t (*next)(int, int, off64_t *, size_t) = real("sendfile64");
    return next(to, from, offset, size);
}

ssize_t sendfile(int to, int from, off_t *offset, size_t size) { return sendfile64(to, from, offset, size); }

ssize_t copy_file_range(int from, off64_t *a, int to, off64_t *b, size_t size, unsigned flags) {
    AT_FILE("write", to, if (b) note_data(DATA, to, *b, size); else note_write(to, size));
    return REAL(copy_file_range)(from, a, to, b, size, flags);
}

int ftruncate64(int file, off64_t size) {
    AT_FILE("truncate", file, note_data(DATA, file, size, -1));
    return REAL(ftruncate64)(file, size);
}

int ftruncate(int file, off_t size) { return ftruncate64(file, size); }

int fsync(int file) {
    AT_FILE("sync", file, note_sync(file, f));
    return REAL(fsync)(file);
}

int fdatasync(int file) {
    AT_FILE("sync", file, note_sync(file, f));
    return REAL(fdatasync)(file);
}

/* What is stored in a shared mapping reaches the file without a call. */
void *mmap64(void *start, size_t size, int protection, int flags, int file, off64_t offset) {
    if (lose && (flags & MAP_SHARED) && (protection & PROT_WRITE) && file >= 0) {
        char p[PATH_MAX];
        if (opened(file, p)) note_data(IMAGE, file, 0, -1);
    }
    return REAL(mmap64)(start, size, protection, flags, file, offset);
}

void *mmap(void *start, size_t size, int protection, int flags, int file, off_t offset) {
    return mmap64(start, size, protection, flags, file, offset);
}

int msync(void *start, size_t size, int flags) {
    if (watching()) met("sync", root, 0);
    return REAL(msync)(start, size, flags);
}

/* ------------------------------------------------------------------------------------------------- names and folders */
#define MAKES(flags) ((flags) & (O_CREAT | O_TRUNC))

static void note_open(const char *path, int flags) {
    if (!lose) return;
    if (flags & O_CREAT) note_name(MADE, path, NULL);
    int file = flags & O_TRUNC ? syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    note_data(DATA, file, 0, -1);
    syscall(SYS_close, file);
}

#define MODE(flags) mode_t mode = 0; if ((flags) & (O_CREAT | O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, mode_t); va_end(a); }

int open(const char *name, int flags, ...) {
    MODE(flags);
    if (MAKES(flags)) AT_PATH("open", AT_FDCWD, name, note_open(f, flags));
    return REAL(open)(name, flags, mode);
}

int open64(const char *name, int flags, ...) {
    MODE(flags);
    if (MAKES(flags)) AT_PATH("open", AT_FDCWD, name, note_open(f, flags));
    return REAL(open64)(name, flags, mode);
}

int openat(int folder, const char *name, int flags, ...) {
    MODE(flags);
    if (MAKES(flags)) AT_PATH("open", folder, name, note_open(f, flags));
    return REAL(openat)(folder, name, flags, mode);
}

int openat64(int folder, const char *name, int flags, ...) {
    MODE(flags);
    if (MAKES(flags)) AT_PATH("open", folder, name, note_open(f, flags));
    return REAL(openat64)(folder, name, flags, mode);
}

FILE *fopen(const char *name, const char *mode) {
    if (mode[0] != 'r') AT_PATH("open", AT_FDCWD, name, note_open(f, mode[0] == 'w' ? O_CREAT | O_TRUNC : O_CREAT));
    return REAL(fopen)(name, mode);
}

FILE *fopen64(const char *name, const char *mode) {
    if (mode[0] != 'r') AT_PATH("open", AT_FDCWD, name, note_open(f, mode[0] == 'w' ? O_CREAT | O_TRUNC : O_CREAT));
    return REAL(fopen64)(name, mode);
}

/* What a stream has gathered reaches its file when it is flushed and closed. */
int fflush(FILE *stream) {
    if (stream) AT_FILE("write", fileno(stream), );
    return REAL(fflush)(stream);
}

int fclose(FILE *stream) {
    AT_FILE("write", fileno(stream), );
    return REAL(fclose)(stream);
}

static void note_rename(int folder, const char *from, const char *to) {
    char p[PATH_MAX];
    const char *f = named(folder, from, p);
    if (f) note_name(MOVED, to, f);
}

int rename(const char *from, const char *to) {
    AT_PATH("rename", AT_FDCWD, to, note_rename(AT_FDCWD, from, f));
    return REAL(rename)(from, to);
}

int renameat(int a, const char *from, int b, const char *to) {
    AT_PATH("rename", b, to, note_rename(a, from, f));
    return REAL(renameat)(a, from, b, to);
}

int link(const char *from, const char *to) {
    AT_PATH("link", AT_FDCWD, to, note_name(MADE, f, NULL));
    return REAL(link)(from, to);
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
    AT_PATH("link", b, to, note_name(MADE, f, NULL));
    return REAL(linkat)(a, from, b, to, flags);
}

int symlink(const char *from, const char *to) {
    AT_PATH("link", AT_FDCWD, to, note_name(MADE, f, NULL));
    return REAL(symlink)(from, to);
}

int unlink(const char *name) {
    AT_PATH("unlink", AT_FDCWD, name, note_name(GONE, f, NULL));
    return REAL(unlink)(name);
}

int unlinkat(int folder, const char *name, int flags) {
    AT_PATH("unlink", folder, name, note_name(GONE, f, NULL));
    return REAL(unlinkat)(folder, name, flags);
}

int mkdir(const char *name, mode_t mode) {
    AT_PATH("mkdir", AT_FDCWD, name, note_name(MADE, f, NULL));
    return REAL(mkdir)(name, mode);
}

int mkdirat(int folder, const char *name, mode_t mode) {
    AT_PATH("mkdir", folder, name, note_name(MADE, f, NULL));
    return REAL(mkdirat)(folder, name, mode);
}

int rmdir(const char *name) {
    AT_PATH("unlink", AT_FDCWD, name, note_name(GONE, f, NULL));
    return REAL(rmdir)(name);
}
