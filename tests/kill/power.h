/* What a disk has lost when the power fails: every change that was not synced, taken back from the newest on.

   Data are on disk after fsync of their file, names after fsync of their folder. What a mapping has stored is taken back
   to the file as it was at its last fsync, or when it was mapped. A kernel may write anything back before it is asked to:
   this is the disk that has written nothing, and with LOSE 2 the one that has written names alone. */
#include <dirent.h>
#include <ftw.h>
#include <pthread.h>

enum kind { DATA, IMAGE, MADE, MOVED, GONE };

struct change {
    struct change *before;
    enum kind kind;
    struct stat file;     /* of data: size and number of the file before */
    int opened;           /* of data: the file, opened for the undoing */
    off64_t offset;       /* of data: place of the bytes that were there */
    size_t length;
    char *bytes;
    char path[PATH_MAX];  /* of names; of a rename the new one */
    char from[PATH_MAX];  /* of a rename, the old one */
    char kept[PATH_MAX];  /* another name of the file that is replaced or gone; empty for none */
    mode_t folder;        /* of a folder that is gone, its mode */
};

static int lose; /* 0: nothing, 1: data and names, 2: data */
static char vault[PATH_MAX];
static struct change *newest;
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static __thread int undoing; /* calls of our own are no changes */

static struct change *note(enum kind kind) {
    struct change *made = calloc(1, sizeof *made);
    made->kind = kind;
    made->opened = -1;
    made->before = newest;
    return newest = made;
}

static void forget(struct change **place) {
    struct change *gone = *place;
    *place = gone->before;
    if (gone->opened >= 0) close(gone->opened);
    free(gone->bytes);
    free(gone);
}

static int open_again(int file) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    return syscall(SYS_openat, AT_FDCWD, link, O_RDWR | O_CLOEXEC);
}

/* Bytes of a file from `offset` on are about to change; `length` -1 for all behind it. */
static void note_data(enum kind kind, int file, off64_t offset, off64_t length) {
    struct stat found;
    if (!lose || fstat(file, &found) || !S_ISREG(found.st_mode)) return;
    pthread_mutex_lock(&guard);
    undoing = 1;
    struct change *made = note(kind);
    made->file = found;
    made->opened = open_again(file);
    made->offset = offset;
    off64_t end = length < 0 || offset + length > found.st_size ? found.st_size : offset + length;
    if (end > offset && made->opened >= 0) {
        made->bytes = malloc(end - offset);
        ssize_t got = pread(made->opened, made->bytes, end - offset, offset);
        made->length = got > 0 ? got : 0;
    }
    undoing = 0;
    pthread_mutex_unlock(&guard);
}

/* A write at the file's own place. */
static void note_write(int file, off64_t length) {
    struct stat found;
    if (!lose || fstat(file, &found)) return;
    off64_t place = fcntl(file, F_GETFL) & O_APPEND ? found.st_size : lseek(file, 0, SEEK_CUR);
    note_data(DATA, file, place, length);
}

/* Another name of a file, below the vault, so that it outlives its own; empty where there is no such file. */
static void keep(const char *path, char *kept) {
    static long count;
    snprintf(kept, PATH_MAX, "%.2000s/%d-%ld", vault, getpid(), ++count);
    if (REAL(link)(path, kept)) kept[0] = 0;
}

/* A name is about to be made, moved from another, or removed. */
static void note_name(enum kind kind, const char *path, const char *from) {
    struct stat found;
    int there = !lstat(path, &found);
    if (!lose || (kind == MADE && there) || (kind == GONE && !there)) return;
    pthread_mutex_lock(&guard);
    undoing = 1;
    struct change *made = note(kind);
    snprintf(made->path, PATH_MAX, "%s", path);
    if (from) snprintf(made->from, PATH_MAX, "%s", from);
    if (there && S_ISDIR(found.st_mode)) made->folder = found.st_mode;
    else if (there) keep(path, made->kept);
    undoing = 0;
    pthread_mutex_unlock(&guard);
}

static int is_in(const char *path, const char *folder) {
    size_t length = strlen(folder);
    return path[0] && !strncmp(path, folder, length) && path[length] == '/' && !strchr(path + length + 1, '/');
}

/* The disk has a file's data, or a folder's names. */
static void note_sync(int file, const char *path) {
    struct stat found;
    if (!lose || fstat(file, &found)) return;
    int mapped = 0;
    pthread_mutex_lock(&guard);
    for (struct change **place = &newest; *place;) {
        struct change *seen = *place;
        int data = seen->kind == DATA || seen->kind == IMAGE;
        int same = data && seen->file.st_dev == found.st_dev && seen->file.st_ino == found.st_ino;
        mapped |= same && seen->kind == IMAGE;
        if (same || (!data && S_ISDIR(found.st_mode) && is_in(seen->path, path))) forget(place);
        else place = &seen->before;
    }
    pthread_mutex_unlock(&guard);
    if (mapped) note_data(IMAGE, file, 0, -1);
}

static int remove_one(const char *path, const struct stat *s, int flag, struct FTW *f) {
    (void)s, (void)flag, (void)f;
    return remove(path);
}

static void undo(struct change *seen) {
    if (seen->kind == DATA || seen->kind == IMAGE) {
        if (seen->opened < 0) return;
        if (seen->length) (void)!pwrite(seen->opened, seen->bytes, seen->length, seen->offset);
        (void)!ftruncate(seen->opened, seen->file.st_size);
        return;
    }
    if (lose == 2) return;
    if (seen->kind == MADE) nftw(seen->path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    if (seen->kind == MOVED) rename(seen->path, seen->from);
    if (seen->folder) mkdir(seen->path, seen->folder);
    else if (seen->kept[0]) (void)!link(seen->kept, seen->path);
}

/* The power fails: nobody else changes anything any more. */
static void fail(void) {
    if (!lose) return;
    pthread_mutex_lock(&guard);
    undoing = 1;
    for (struct change *seen = newest; seen; seen = seen->before) undo(seen);
}
