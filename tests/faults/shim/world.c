/* A world in which the clock jumps or no other machine answers, for whatever runs under LD_PRELOAD.
 *
 *   WORLD_CLOCK=1       the wall clock leaps by days, forth and back, four times a second
 *   WORLD_NETWORK=FILE  looking up names and connecting to addresses fails, and is noted in FILE
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define REAL(name) \
  static __typeof__(name) *real; \
  if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

int clock_gettime(clockid_t clock, struct timespec *now) {
  REAL(clock_gettime);
  int status = real(clock, now);
  if (status || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE) ||
      !getenv("WORLD_CLOCK"))
    return status;
  static const long leaps[] = {0, 7 * 86400, -7 * 86400, 3600};
  struct timespec steady;
  real(CLOCK_MONOTONIC, &steady);
  now->tv_sec += leaps[(steady.tv_sec * 4 + steady.tv_nsec / 250000000) % 4];
  return 0;
}

int gettimeofday(struct timeval *now, void *zone) {
  struct timespec fine;
  (void)zone;
  clock_gettime(CLOCK_REALTIME, &fine);
  now->tv_sec = fine.tv_sec;
  now->tv_usec = fine.tv_nsec / 1000;
  return 0;
}

time_t time(time_t *out) {
  struct timespec fine;
  clock_gettime(CLOCK_REALTIME, &fine);
  if (out) *out = fine.tv_sec;
  return fine.tv_sec;
}

/* 1 where there is no network; what was wanted is noted. */
static int cut_off(const char *what) {
  const char *path = getenv("WORLD_NETWORK");
  if (!path) return 0;
  int fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0644);
  if (fd >= 0) {
    if (write(fd, what, strlen(what)) < 0 || write(fd, "\n", 1) < 0) errno = 0;
    close(fd);
  }
  return 1;
}

int connect(int fd, const struct sockaddr *address, socklen_t length) {
  REAL(connect);
  if (address && address->sa_family != AF_UNIX && cut_off("connect")) {
    errno = ENETUNREACH;
    return -1;
  }
  return real(fd, address, length);
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
  REAL(getaddrinfo);
  if (node && cut_off(node)) return EAI_AGAIN;
  return real(node, service, hints, found);
}
