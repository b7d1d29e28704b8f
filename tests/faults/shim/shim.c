/* Counts the calls by which a process changes files below one folder, and makes the n-th fail.
 *
 * Preloaded (LD_PRELOAD) it stands below Python and below C++ alike: array data is written by a
 * library that no Python patch reaches. Only calls on paths below SHIM_FOLDER are counted.
 *
 *   shim_arm(mode, n, error)  counts from 0 again; mode 0 counts alone, 1 fails the n-th call
 *                             (from 1) with errno = error, 2 kills the process at the n-th call,
 *                             half of its bytes written where it is a write; 3 is a disk that is
 *                             full from the n-th call on: whatever needs space fails
 *   shim_watch(folder)        another folder
 *   shim_count()              calls counted since
 *   shim_hit()                name of the call that was made to fail, or ""
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long counted, armed_n;
static atomic_int armed_mode, armed_error;
static const char *volatile hit = "";
static char folder[PATH_MAX];

static int below(const char *path) {
  size_t length = strlen(folder);
  return length && !strncmp(path, folder, length) && (path[length] == '/' || !path[length]);
}

static int fd_below(int fd) {
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return below(path);
}

static int at_below(int fd, const char *path) {
  if (!path) return 0;
  if (path[0] == '/') return below(path);
  return fd != AT_FDCWD && fd_below(fd);
}

/* 1 where this call is to fail with errno set; for a write in mode 2, first half of it is done. */
static int due(const char *name, int inside, int fd, const void *bytes, size_t length) {
  if (!inside) return 0;
  int saved = errno;
  long number = atomic_fetch_add(&counted, 1) + 1;
  int mode = atomic_load(&armed_mode);
  long n = atomic_load(&armed_n);
  int full = mode == 3 && number >= n && (strstr(name, "write") || strstr(name, "open") ||
                                          strstr(name, "mkdir") || strstr(name, "trunc"));
  if (!full && !((mode == 1 || mode == 2) && number == n)) {
    errno = saved;
    return 0;
  }
  hit = name;
  if (mode == 2) {
    if (bytes && length > 1) {
      ssize_t (*real)(int, const void *, size_t) = dlsym(RTLD_NEXT, "write");
      if (real(fd, bytes, length / 2) < 0) errno = 0;
    }
    kill(getpid(), SIGKILL);
    for (;;) pause();
  }
  errno = atomic_load(&armed_error);
  return 1;
}

#define REAL(name) \
  static __typeof__(name) *real; \
  if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

void shim_arm(int mode, long n, int error) {
  atomic_store(&armed_mode, 0);
  atomic_store(&counted, 0);
  atomic_store(&armed_n, n);
  atomic_store(&armed_error, error);
  hit = "";
  atomic_store(&armed_mode, mode);
}

void shim_watch(const char *path) { snprintf(folder, sizeof folder, "%s", path); }

long shim_count(void) { return atomic_load(&counted); }

const char *shim_hit(void) { return hit; }

__attribute__((constructor)) static void start(void) {
  const char *path = getenv("SHIM_FOLDER");
  if (path) shim_watch(path);
}

ssize_t write(int fd, const void *bytes, size_t length) {
  REAL(write);
  return due("write", fd_below(fd), fd, bytes, length) ? -1 : real(fd, bytes, length);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
  REAL(pwrite);
  return due("pwrite", fd_below(fd), fd, 0, 0) ? -1 : real(fd, bytes, length, at);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
  REAL(pwrite64);
  return due("pwrite64", fd_below(fd), fd, 0, 0) ? -1 : real(fd, bytes, length, at);
}

ssize_t writev(int fd, const struct iovec *parts, int number) {
  REAL(writev);
  const void *bytes = number ? parts[0].iov_base : 0;
  size_t length = number ? parts[0].iov_len : 0;
  return due("writev", fd_below(fd), fd, bytes, length) ? -1 : real(fd, parts, number);
}

ssize_t pwritev(int fd, const struct iovec *parts, int number, off_t at) {
  REAL(pwritev);
  return due("pwritev", fd_below(fd), fd, 0, 0) ? -1 : real(fd, parts, number, at);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int number, off64_t at) {
  REAL(pwritev64);
  return due("pwritev64", fd_below(fd), fd, 0, 0) ? -1 : real(fd, parts, number, at);
}

int fsync(int fd) {
  REAL(fsync);
  return due("fsync", fd_below(fd), fd, 0, 0) ? -1 : real(fd);
}

int fdatasync(int fd) {
  REAL(fdatasync);
  return due("fdatasync", fd_below(fd), fd, 0, 0) ? -1 : real(fd);
}

int ftruncate(int fd, off_t length) {
  REAL(ftruncate);
  return due("ftruncate", fd_below(fd), fd, 0, 0) ? -1 : real(fd, length);
}

int ftruncate64(int fd, off64_t length) {
  REAL(ftruncate64);
  return due("ftruncate64", fd_below(fd), fd, 0, 0) ? -1 : real(fd, length);
}

int rename(const char *from, const char *to) {
  REAL(rename);
  return due("rename", below(to), -1, 0, 0) ? -1 : real(from, to);
}

int renameat(int a, const char *from, int b, const char *to) {
  REAL(renameat);
  return due("renameat", at_below(b, to), -1, 0, 0) ? -1 : real(a, from, b, to);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned int flags) {
  REAL(renameat2);
  return due("renameat2", at_below(b, to), -1, 0, 0) ? -1 : real(a, from, b, to, flags);
}

int link(const char *from, const char *to) {
  REAL(link);
  return due("link", below(to), -1, 0, 0) ? -1 : real(from, to);
}

int mkdir(const char *path, mode_t mode) {
  REAL(mkdir);
  return due("mkdir", below(path), -1, 0, 0) ? -1 : real(path, mode);
}

int mkdirat(int fd, const char *path, mode_t mode) {
  REAL(mkdirat);
  return due("mkdirat", at_below(fd, path), -1, 0, 0) ? -1 : real(fd, path, mode);
}

int unlink(const char *path) {
  REAL(unlink);
  return due("unlink", below(path), -1, 0, 0) ? -1 : real(path);
}

int unlinkat(int fd, const char *path, int flags) {
  REAL(unlinkat);
  return due("unlinkat", at_below(fd, path), -1, 0, 0) ? -1 : real(fd, path, flags);
}

int rmdir(const char *path) {
  REAL(rmdir);
  return due("rmdir", below(path), -1, 0, 0) ? -1 : real(path);
}

/* Opening counts only where it may make or change a file. */
#define OPENED(fd, path) ((flags & (O_CREAT | O_WRONLY | O_RDWR)) && at_below(fd, path))
#define MODE() \
  mode_t mode = 0; \
  if (flags & (O_CREAT | O_TMPFILE)) { \
    va_list rest; \
    va_start(rest, flags); \
    mode = va_arg(rest, mode_t); \
    va_end(rest); \
  }

int open(const char *path, int flags, ...) {
  REAL(open);
  MODE();
  return due("open", OPENED(AT_FDCWD, path), -1, 0, 0) ? -1 : real(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
  REAL(open64);
  MODE();
  return due("open64", OPENED(AT_FDCWD, path), -1, 0, 0) ? -1 : real(path, flags, mode);
}

int openat(int fd, const char *path, int flags, ...) {
  REAL(openat);
  MODE();
  return due("openat", OPENED(fd, path), -1, 0, 0) ? -1 : real(fd, path, flags, mode);
}

int openat64(int fd, const char *path, int flags, ...) {
  REAL(openat64);
  MODE();
  return due("openat64", OPENED(fd, path), -1, 0, 0) ? -1 : real(fd, path, flags, mode);
}

int creat(const char *path, mode_t mode) {
  REAL(creat);
  return due("creat", below(path), -1, 0, 0) ? -1 : real(path, mode);
}
