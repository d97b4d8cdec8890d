/* ropewalk-monitor: one small process per container. It owns the container's standard streams, its log and its exit
 * code, and outlives the daemon that started it.
 *
 *   ropewalk-monitor run LOG EXIT MEMORY FLAGS CREATE... "" UNDO... "" [START... "" WAIT... ""]
 *       Its directory is the bundle; descriptor 3 is a SEQPACKET socket to the daemon. It makes `ctl` and `attach`,
 *       waits for a packet, runs the command CREATE with the container's streams, and answers a packet: "+PID" (from
 *       the file `pid`), "-what the runtime wrote" or "!what went wrong here". If the daemon goes away before that,
 *       what was begun is undone: UNDO is run, and what was made here is removed.
 *       LOG, in CRI format; EXIT, the file for the exit code, which appears when all output is in the log; MEMORY, the
 *       memory.events of the container's cgroup: a file `oom` says that its OOM killer was at work. "": none.
 *       FLAGS: t, a terminal, by the runtime's --console-socket `console`; i, keep a standard input; o, until the first
 *       attacher's end. START, WAIT: for gVisor, which takes the streams at START, and whose WAIT alone tells the code.
 *   ropewalk-monitor log LOG [dir DIRECTORY]
 *       containerd's binary:// logger; it shuffles the pairs. Descriptors 3 and 4 are what was written to stdout and
 *       stderr; 5 is closed when we are ready. With a directory, `ctl` and `attach` are made there.
 *
 * Wire formats are conmon's (2.1): `ctl` takes lines "1 HEIGHT WIDTH" (terminal size), "2 0 0" (LOG.tmp becomes LOG)
 * and, of ours, "3 0 0": run START, whose exit code appears in the file `started`. Packets from `attach` begin with
 * byte 2 (stdout) or 3 (stderr), those to it are standard input. SIGTERM: take what is there, go without an exit file.
 *
 * What must hold: nothing that an attacher, a full disk or the daemon does blocks the container or loses a line without
 * saying so; the exit file is never early, and never waits for who inherited the container's pipes; an idle monitor
 * never wakes up. One thread, no heap: buffers are static, and given back to the kernel when the container is quiet. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    LINE = 16384,    /* longest content of one log line, as containerd's */
    CHUNK = 65536,   /* one read: all that a pipe holds by default */
    BATCH = 131072,  /* longest write to the log */
    TURN = 1 << 20,  /* bytes taken from one stream before the others are looked at */
    PACKET = 8192,   /* most data in a packet to an attacher: conmon's clients have room for that */
    QUEUE = 4 << 20, /* bytes that an attacher may lag behind before it is dropped */
    PEERS = 16,      /* attachers at once */
    QUIET = 100,     /* ms after which an unfinished line is shown */
    RETRY = 1000,    /* ms between attempts to write to a full disk */
    IDLE = 1000,     /* ms of silence after which the buffers are given back */
    HASTE = 16,      /* reads in one tick of the clock (1 to 10 ms) after which small ones are put off ... */
    NAP = 300000,    /* ... for so many ns: what wakes us for each of its lines spends most of its time on that */
    PATIENCE = 30,   /* seconds for the runtime to undo its create */
    WAITS = 5,       /* times that `wait` is run again because somebody killed it */
    LOST = 137,      /* exit code where `wait` cannot tell: what ran the container was killed */
};

enum { CREATE, UNDO, START, WAIT }; /* commands */
/* What an event is about: an index of `fds`. Attachers are PEER and above. */
enum { STDOUT, STDERR, STDIN, SIGNALS, DAEMON, CTL, ATTACH, CONSOLE, MEMORY, PEER, ALL = PEER + PEERS };

struct stream {
    const char *name; /* with blanks around it, as in the log */
    char *buffer;     /* LINE + CHUNK bytes; the first `held` are a line whose end has not come */
    size_t held;
    int64_t since; /* when the last of it came */
    bool hung;     /* a terminal that nobody has open at the moment */
};

static _Alignas(4096) char buffers[2][LINE + CHUNK], batch[BATCH], input[CHUNK];
static struct stream streams[2] = {{" stdout ", buffers[0], 0, 0, false}, {" stderr ", buffers[1], 0, 0, false}};
static struct { const char *path; int fd, error; size_t begin, end; long lost; int64_t retry; } journal = {.fd = -1};
static struct { size_t begin, end; bool once, stuck, deaf[PEERS]; } in; /* deaf: has nothing more to say */
static char **commands[4];
static struct { pid_t creator, container, starter, waiter; } pids;
static struct { const char *path; char temporary[PATH_MAX]; int fd; } end_file = {.fd = -1};
static const char *memory; /* memory.events of the container's cgroup */
static struct winsize size;
static int fds[ALL] = {[0 ... ALL - 1] = -1}, ends[3] = {-1, -1, -1}; /* the container's ends of its pipes */
static int poller, told = -1, waits;         /* told: what `wait` writes */
static bool terminal, touched, going;
static int64_t now; /* ms on no particular clock */
static char stamp[] = "0000-00-00T00:00:00.000000000Z";

static _Noreturn void fail(const char *what);
static _Noreturn void finish(int code);

/* No events: not any more. An error is ENOSPC: that one is not heard, the rest goes on. */
static void watch(int about, uint32_t events) {
    struct epoll_event event = {.events = events, .data.u32 = (uint32_t)about};
    if (epoll_ctl(poller, events ? EPOLL_CTL_MOD : EPOLL_CTL_DEL, fds[about], &event) < 0 && errno == ENOENT && events)
        (void)!epoll_ctl(poller, EPOLL_CTL_ADD, fds[about], &event);
}

static void drop(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

/* Also out of the poller, which would go on about a descriptor that has a duplicate. */
static void discard(int about) {
    if (fds[about] >= 0) watch(about, 0);
    drop(&fds[about]);
}

/* Decimal, at least `width` digits. */
static char *put_number(char *to, uint64_t value, int width) {
    char digits[20];
    int count = 0;
    for (; value > 0 || count < width; value /= 10) digits[count++] = (char)('0' + value % 10);
    while (count > 0) *to++ = digits[--count];
    return to;
}

static void read_clock(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
    now = time.tv_sec * INT64_C(1000) + time.tv_nsec / 1000000;
}

/* The time that the lines of one read get: RFC 3339, UTC. Not by gmtime_r(3), which reads /etc/localtime. */
static void read_time(void) {
    static time_t second = -1;
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    put_number(stamp + 20, (uint64_t)time.tv_nsec, 9);
    if (time.tv_sec == second) return;
    second = time.tv_sec;
    /* civil_from_days of http://howardhinnant.github.io/date_algorithms.html: years begin in March */
    unsigned days = (unsigned)(second / 86400) + 719468, era = days / 146097, of_era = days % 146097;
    unsigned year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    unsigned of_year = of_era - (365 * year + year / 4 - year / 100), march = (5 * of_year + 2) / 153;
    unsigned month = march < 10 ? march + 3 : march - 9, of_day = (unsigned)(second % 86400);
    unsigned rest[] = {month, of_year - (153 * march + 2) / 5 + 1, of_day / 3600, of_day / 60 % 60, of_day % 60};
    put_number(stamp, year + era * 400 + (month <= 2), 4);
    for (int i = 0; i < 5; i++) put_number(stamp + 5 + 3 * i, rest[i], 2);
}

/* The log. Lines are put into `batch` and written together. While the disk is full the batch is kept, later lines are
 * counted and dropped, and as soon as there is room again the log says so at that place. */

static void write_batch(void) {
    if (journal.error && now < journal.retry) return;
    while (journal.begin < journal.end) {
        ssize_t count = TEMP_FAILURE_RETRY(write(journal.fd, batch + journal.begin, journal.end - journal.begin));
        if (count <= 0) {
            journal.error = count < 0 ? errno : ENOSPC;
            journal.retry = now + RETRY;
            return;
        }
        journal.begin += (size_t)count;
    }
    int error = journal.error;
    journal.begin = journal.end = 0;
    journal.error = 0;
    if (!journal.lost) return;
    read_time();
    char *to = put_number(stpcpy(stpcpy(batch, stamp), " stderr F ropewalk-monitor: "), (uint64_t)journal.lost, 1);
    journal.end = (size_t)(stpcpy(stpcpy(stpcpy(to, " lines were lost: "), strerror(error)), "\n") - batch);
    journal.lost = 0;
    write_batch();
}

static void put_line(const struct stream *stream, char kind, const char *text, size_t length) {
    size_t time = sizeof stamp - 1, all = time + 10 + length + 1;
    if (journal.fd < 0) return;
    if (journal.end + all > BATCH) write_batch();
    if (journal.end + all > BATCH || journal.lost) {
        journal.lost++;
        return;
    }
    char *to = mempcpy(mempcpy(batch + journal.end, stamp, time), stream->name, 8);
    *to++ = kind;
    *to++ = ' ';
    *(char *)mempcpy(to, text, length) = '\n';
    journal.end += all;
}

static int open_log(const char *path) {
    struct stat status;
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0640);
    if (fd >= 0 && (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode))) {
        drop(&fd);
        errno = EINVAL;
    }
    return fd;
}

/* Write to LOG.tmp, which the daemon has made, and let it be LOG. If that fails, the old file stays in use. What came
 * before belongs to the old file; what has no room there goes to the new one, from a line's begin. */
static void reopen_log(void) {
    char temporary[PATH_MAX];
    if (!journal.path || strlen(journal.path) + sizeof ".tmp" > sizeof temporary) return;
    stpcpy(stpcpy(temporary, journal.path), ".tmp");
    int fd = open_log(temporary);
    if (fd < 0 || rename(temporary, journal.path) < 0) {
        drop(&fd);
        return;
    }
    journal.retry = 0;
    write_batch();
    if (journal.begin > 0) {
        journal.begin = (size_t)((char *)memchr(batch + journal.begin, '\n', journal.end - journal.begin) + 1 - batch);
        journal.lost++;
    }
    drop(&journal.fd);
    journal.fd = fd;
    journal.retry = 0;
    write_batch();
}

/* Attachers, and the standard input that they write. */

static bool send_packet(int fd, char first, const char *data, size_t length) {
    struct iovec parts[2] = {{&first, 1}, {(char *)data, length}};
    struct msghdr packet = {.msg_iov = parts, .msg_iovlen = 2};
    return fd >= 0 && sendmsg(fd, &packet, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

/* One that does not keep up is dropped: nothing waits for it. */
static void show(char tag, const char *data, size_t length) {
    for (int about = PEER; about < ALL; about++)
        for (size_t sent = 0, part; fds[about] >= 0 && sent < length; sent += part) {
            part = length - sent < PACKET ? length - sent : PACKET;
            if (!send_packet(fds[about], tag, data + sent, part)) discard(about);
        }
}

/* For one packet, since there may be no room for a second. One that has nothing more to say is watched for its end. */
static void hear(int about) {
    watch(about, in.deaf[about - PEER] ? EPOLLHUP : EPOLLIN | EPOLLRDHUP | EPOLLONESHOT);
}

static void write_input(void) {
    while (in.begin < in.end && fds[STDIN] >= 0) {
        ssize_t count = TEMP_FAILURE_RETRY(write(fds[STDIN], input + in.begin, in.end - in.begin));
        if (count < 0 && errno == EAGAIN) {
            in.stuck = true;
            watch(STDIN, EPOLLOUT);
            return;
        }
        if (count < 0) discard(STDIN); /* the container has closed it */
        else in.begin += (size_t)count;
    }
    in.begin = in.end = 0;
    if (in.stuck && fds[STDIN] >= 0) watch(STDIN, 0);
    for (int about = PEER; in.stuck && about < ALL; about++)
        if (fds[about] >= 0) hear(about);
    in.stuck = false;
}

static void read_input(int about, uint32_t events) {
    bool deaf = in.deaf[about - PEER];
    if (in.stuck && !deaf) return; /* it is heard again later */
    ssize_t count = deaf ? -1 : TEMP_FAILURE_RETRY(recv(fds[about], input, sizeof input, 0));
    if (deaf || (count < 0 && errno != EAGAIN)) {
        discard(about);
        return;
    }
    in.deaf[about - PEER] = count == 0 && events & (EPOLLRDHUP | EPOLLHUP); /* without these it was an empty packet */
    if (in.deaf[about - PEER] && in.once && !terminal) discard(STDIN);
    in.end = count > 0 ? (size_t)count : 0;
    touched = true;
    write_input();
    if (!in.stuck) hear(about);
}

static void accept_peers(void) {
    int fd, about, queue = QUEUE;
    while ((fd = accept4(fds[ATTACH], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        for (about = PEER; about < ALL && fds[about] >= 0;) about++;
        if (about == ALL) close(fd);
        if (about == ALL) continue;
        (void)!setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &queue, sizeof queue);
        fds[about] = fd;
        in.deaf[about - PEER] = false;
        if (!in.stuck) hear(about);
    }
}

/* The container's streams. */

/* `count` bytes came behind those held. */
static void take(struct stream *stream, size_t count) {
    char *line = stream->buffer, *from = line + stream->held, *end = from + count, *feed;
    show(stream == streams ? 2 : 3, from, count);
    while ((feed = memchr(from, '\n', (size_t)(end - from)))) {
        for (; feed - line > LINE; line += LINE) put_line(stream, 'P', line, LINE);
        size_t added = terminal && feed > line && feed[-1] == '\r'; /* a terminal makes \n to \r\n */
        put_line(stream, 'F', line, (size_t)(feed - line) - added);
        line = from = feed + 1;
    }
    for (; end - line > LINE; line += LINE) put_line(stream, 'P', line, LINE);
    stream->held = (size_t)(end - line);
    stream->since = now;
    if (line != stream->buffer) memmove(stream->buffer, line, stream->held);
}

static void show_unfinished(struct stream *stream) {
    read_time();
    if (stream->held > 0) put_line(stream, 'P', stream->buffer, stream->held);
    stream->held = 0;
}

/* Read what is there, at most about `limit` bytes; `all`: until nothing is, for a short read may be one of many. */
static void pump(int about, size_t limit, bool all) {
    static struct { int64_t tick; int reads; ssize_t last; } haste;
    struct stream *stream = &streams[about];
    touched = true;
    if (haste.tick != now) haste.reads = 0;
    haste.tick = now;
    if (!all && ++haste.reads > HASTE && haste.last < CHUNK / 2) nanosleep(&(struct timespec){.tv_nsec = NAP}, NULL);
    for (size_t taken = 0; fds[about] >= 0 && taken < limit;) {
        ssize_t count = TEMP_FAILURE_RETRY(read(fds[about], stream->buffer + stream->held, CHUNK));
        if (count < 0 && errno == EAGAIN) break;
        if (count <= 0) {
            stream->since = now;
            stream->hung = count < 0 && terminal && about == STDOUT; /* EIO: nobody has it open, but somebody may */
            if (stream->hung) watch(about, 0);
            else show_unfinished(stream), discard(about);
            break;
        }
        read_time();
        if (about == STDERR && pids.creator) { /* the runtime speaks: to be kept, not logged */
            stream->held = stream->held + (size_t)count < LINE ? stream->held + (size_t)count : LINE;
            stream->since = INT64_MAX / 2;
        } else {
            take(stream, (size_t)count);
        }
        taken += (size_t)count;
        haste.last = count;
        if (count < CHUNK && !all) break;
    }
    write_batch();
}

static void receive_terminal(void) {
    char byte, handed[CMSG_SPACE(sizeof(int))];
    struct iovec part = {&byte, 1};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = handed, .msg_controllen = sizeof handed};
    int fd = accept4(fds[CONSOLE], NULL, NULL, SOCK_CLOEXEC);
    if (fd >= 0 && recvmsg(fd, &message, MSG_CMSG_CLOEXEC) >= 0 && CMSG_FIRSTHDR(&message)) {
        memcpy(&fds[STDOUT], CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
        (void)!fcntl(fds[STDOUT], F_SETFL, O_RDWR | O_NONBLOCK);
        if (size.ws_row) (void)!ioctl(fds[STDOUT], TIOCSWINSZ, &size);
        fds[STDIN] = fcntl(fds[STDOUT], F_DUPFD_CLOEXEC, 0);
        watch(STDOUT, EPOLLIN);
        discard(CONSOLE);
        unlink("console");
    }
    drop(&fd);
}

/* The runtime's commands, and how they end. */

/* -1 with errno. Where `given` is below 0, the command has our own stream, which is /dev/null. */
static pid_t run(char **argv, const int given[3]) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none;
    pid_t pid;
    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setpgroup(&attributes, 0); /* what it starts dies with it in `undo` */
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
    for (int i = 0; i < 3; i++)
        if (given[i] >= 0) posix_spawn_file_actions_adddup2(&actions, given[i], i);
    errno = posix_spawn(&pid, argv[0], &actions, &attributes, argv, environ);
    return errno ? -1 : pid;
}

static void close_ends(void) {
    for (int i = 0; i < 3; i++) drop(&ends[i]);
}

static void remove_files(void) {
    for (const char **name = (const char *[]){"ctl", "attach", "console", NULL}; fds[CTL] >= 0 && *name; name++)
        unlink(*name);
    if (end_file.fd >= 0) unlink(end_file.temporary);
}

/* The daemon has gone, or could not be told: nothing may be left. */
static _Noreturn void undo(void) {
    pid_t pid;
    alarm(PATIENCE);
    close_ends();
    if (pids.creator > 0 && kill(-pids.creator, SIGKILL) == 0) waitpid(pids.creator, NULL, 0);
    if (going && (pid = run(commands[UNDO], ends)) > 0) waitpid(pid, NULL, 0);
    remove_files();
    _exit(1);
}

static void fail(const char *what) {
    char text[PATH_MAX + 256] = "";
    size_t length = (size_t)(stpcpy(stpcpy(stpncpy(text, what, PATH_MAX), ": "), strerror(errno)) - text);
    if (!send_packet(fds[DAEMON], '!', text, length)) (void)!write(STDERR_FILENO, text, length);
    undo();
}

/* As it happens: systemd removes a cgroup as soon as nothing lives there. */
static void read_memory(void) {
    char text[256] = "", *found;
    if (fds[MEMORY] < 0 || pread(fds[MEMORY], text, sizeof text - 1, 0) <= 0) {
        discard(MEMORY);
    } else if ((found = strstr(text, "oom_kill ")) && atoi(found + 9) > 0) {
        (void)!mknod("oom", S_IFREG | 0600, 0);
        discard(MEMORY);
    }
}

/* `create` has ended. */
static void conclude(int status) {
    char text[16] = "";
    pump(STDERR, LINE, true);
    pids.creator = 0;
    size_t length = streams[1].held;
    if (status != 0) {
        send_packet(fds[DAEMON], '-', streams[1].buffer, length);
        remove_files();
        _exit(1);
    }
    if (terminal && fds[STDOUT] < 0) receive_terminal();
    int fd = open("pid", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, text, sizeof text - 1) <= 0 || (pids.container = atoi(text)) <= 0)
        fail("the runtime's pid file");
    drop(&fd);
    if (!send_packet(fds[DAEMON], '+', text, strspn(text, "0123456789"))) undo();
    discard(DAEMON);
    if (*memory && (fds[MEMORY] = open(memory, O_RDONLY | O_CLOEXEC)) >= 0) watch(MEMORY, EPOLLPRI);
    streams[1].held = 0;
    if (length > 0) take(&streams[1], length); /* a warning, then */
    if (commands[START]) return;
    close_ends();
    fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC); /* not before: what we start would inherit it */
    if (fd >= 0) (void)!write(fd, "-1000", 5); /* without CAP_SYS_RESOURCE it stays what the daemon has */
    drop(&fd);
}

/* A file with a number, which appears at once. */
static bool publish(int fd, const char *temporary, const char *path, int code) {
    char text[16];
    ssize_t length = put_number(text, (uint64_t)code, 1) - text;
    return pwrite(fd, text, (size_t)length, 0) == length && ftruncate(fd, length) == 0 && rename(temporary, path) == 0;
}

static void wait_by_command(void) {
    told = memfd_create("wait", MFD_CLOEXEC);
    pids.waiter = run(commands[WAIT], (const int[]){-1, told, -1});
    if (pids.waiter < 0) finish(LOST);
}

/* `start` has ended. Unless it went well it may be tried again. */
static void begin(int status) {
    int fd = open("started.tmp", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    publish(fd, "started.tmp", "started", WIFEXITED(status) ? WEXITSTATUS(status) : LOST);
    drop(&fd);
    pids.starter = 0;
    if (status != 0) return;
    close_ends();
    wait_by_command();
}

/* `wait` has ended: {"id": ..., "exitStatus": N} if it could tell. */
static void understand(int status) {
    char text[512] = "", *found = NULL;
    if (pread(told, text, sizeof text - 1, 0) > 0) found = strstr(text, "\"exitStatus\":");
    drop(&told);
    if (WIFSIGNALED(status) && waits++ < WAITS) wait_by_command();
    else finish(status == 0 && found ? atoi(found + sizeof "\"exitStatus\":" - 1) : LOST);
}

/* While `create` runs only that is reaped: the container's own end must wait until its pid is known. */
static void reap(void) {
    int status;
    pid_t pid;
    if (pids.creator) {
        if (waitpid(pids.creator, &status, WNOHANG) != pids.creator) return;
        conclude(status);
    }
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        if (pid == pids.starter) begin(status);
        else if (pid == pids.waiter) understand(status);
        else if (pid == pids.container && !commands[WAIT])
            finish(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
    }
}

/* The end. Who else has the pipes open may go on writing: only what is there now is taken. `code` -1: no exit file. An
 * exit file that cannot be written is tried again, for somebody waits for it; not if its directory was removed. */
static void finish(int code) {
    read_memory();
    for (int about = STDOUT; about <= STDERR; about++) {
        int holds = terminal ? TURN : fcntl(fds[about], F_GETPIPE_SZ);
        pump(about, holds > 0 ? (size_t)holds : TURN, true);
        show_unfinished(&streams[about]);
    }
    journal.retry = 0;
    write_batch();
    if (code < 0) remove_files();
    else if (end_file.fd >= 0)
        while (!publish(end_file.fd, end_file.temporary, end_file.path, code) && errno != ENOENT) sleep(1);
    _exit(0);
}

/* The loop. */

static void read_ctl(void) {
    char text[PIPE_BUF + 1]; /* writes of lines are whole */
    ssize_t count = read(fds[CTL], text, PIPE_BUF);
    text[count > 0 ? count : 0] = 0;
    for (char *line = text, *rest, *feed; (feed = strchr(line, '\n')); line = feed + 1) {
        long command = strtol(line, &rest, 10), height = strtol(rest, &rest, 10), width = strtol(rest, &rest, 10);
        if (command == 1) {
            size.ws_row = (unsigned short)height;
            size.ws_col = (unsigned short)width;
            if (terminal && fds[STDOUT] >= 0) (void)!ioctl(fds[STDOUT], TIOCSWINSZ, &size);
        } else if (command == 2) {
            reopen_log();
        } else if (command == 3 && commands[START] && !pids.starter && !pids.waiter) {
            pids.starter = run(commands[START], ends);
            if (pids.starter < 0) begin(LOST << 8);
        }
    }
}

static void read_signals(void) {
    struct signalfd_siginfo info;
    while (read(fds[SIGNALS], &info, sizeof info) == sizeof info)
        if (info.ssi_signo == SIGTERM) finish(-1);
    reap();
}

static void read_daemon(void) {
    char packet[16];
    ssize_t count = TEMP_FAILURE_RETRY(recv(fds[DAEMON], packet, sizeof packet, 0));
    if (count == 0 || (count < 0 && errno != EAGAIN)) undo();
    if (count < 0 || going) return;
    going = true;
    pids.creator = run(commands[CREATE], ends);
    if (pids.creator < 0) fail(commands[CREATE][0]);
}

static void handle(int about, uint32_t events) {
    if (fds[about] < 0) return; /* closed by an earlier event of this round */
    switch (about) {
    case STDOUT: case STDERR: pump(about, TURN, false); break;
    case STDIN: write_input(); break;
    case SIGNALS: read_signals(); break;
    case DAEMON: read_daemon(); break;
    case CTL: read_ctl(); break;
    case ATTACH: accept_peers(); break;
    case CONSOLE: receive_terminal(); break;
    case MEMORY: read_memory(); break;
    default: read_input(about, events);
    }
}

/* What time alone brings about. Returns the ms until there is more of that, -1 for never. */
static int tick(void) {
    bool waiting = false;
    for (int about = STDOUT; about <= STDERR; about++) {
        struct stream *stream = &streams[about];
        if (now - stream->since >= QUIET) {
            if (stream->held > 0) show_unfinished(stream);
            if (stream->hung) watch(about, EPOLLIN);
            stream->hung = false;
        }
        waiting |= stream->held > 0 || stream->hung;
    }
    write_batch();
    return waiting ? QUIET : journal.end > 0 ? RETRY : touched ? IDLE : -1;
}

static _Noreturn void loop(void) {
    struct epoll_event events[8];
    for (;;) {
        int count = epoll_wait(poller, events, 8, tick());
        read_clock();
        if (count == 0 && touched && !streams[0].held && !streams[1].held && !journal.end && !in.end) {
            madvise(buffers, sizeof buffers, MADV_DONTNEED);
            madvise(batch, sizeof batch, MADV_DONTNEED);
            madvise(input, sizeof input, MADV_DONTNEED);
            touched = false;
        }
        for (int i = 0; i < count; i++) handle((int)events[i].data.u32, events[i].events);
        if (!commands[CREATE] && fds[STDOUT] < 0 && fds[STDERR] < 0) finish(-1);
    }
}

/* Setting up. */

static void set_up_process(unsigned first_foreign) {
    sigset_t all, wanted;
    close_range(first_foreign, ~0U, 0);
    sigfillset(&all); /* SIGPIPE and SIGXFSZ, too: write(2) tells. Not ignored: that, commands would inherit */
    sigdelset(&all, SIGALRM);
    sigprocmask(SIG_SETMASK, &all, NULL);
    sigemptyset(&wanted);
    sigaddset(&wanted, SIGCHLD);
    sigaddset(&wanted, SIGTERM);
    prctl(PR_SET_DUMPABLE, 0); /* nobody but root looks into it */
    read_clock();
    poller = epoll_create1(EPOLL_CLOEXEC);
    fds[SIGNALS] = signalfd(-1, &wanted, SFD_NONBLOCK | SFD_CLOEXEC);
    if (poller < 0 || fds[SIGNALS] < 0) fail("signals");
    watch(SIGNALS, EPOLLIN);
}

static void listen_at(const char *name, int about, int type) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    stpcpy(address.sun_path, name);
    unlink(name);
    int fd = fds[about] = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 64) < 0) fail(name);
    watch(about, EPOLLIN | EPOLLET); /* once: without a descriptor for accept(2) it would come again for ever */
}

static void set_up_files(const char *log) {
    mode_t inherited = umask(0177);
    listen_at("attach", ATTACH, SOCK_SEQPACKET);
    unlink("ctl");
    if (mkfifo("ctl", 0600) < 0 || (fds[CTL] = open("ctl", O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0) fail("ctl");
    watch(CTL, EPOLLIN); /* open for both, so that it has no end when a writer goes */
    if (terminal) listen_at("console", CONSOLE, SOCK_STREAM);
    umask(inherited); /* the container inherits it */
    journal.path = log;
    if (log && (journal.fd = open_log(log)) < 0) fail(log);
}

/* EXITS/.ID. Its content is reserved now, so that a disk which is full by then does not hide the end. */
static void set_up_end_file(const char *path) {
    const char *name = strrchr(path, '/') + 1;
    end_file.path = path;
    stpcpy(stpcpy(stpncpy(end_file.temporary, path, (size_t)(name - path)), "."), name);
    end_file.fd = open(end_file.temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (end_file.fd < 0 || write(end_file.fd, "255", 3) != 3) fail(end_file.temporary);
}

static void set_up_streams(bool input_kept) {
    int pair[2];
    for (int about = STDOUT; about <= STDIN; about++) {
        bool ours = about == STDIN; /* the end that is written to */
        if (ours ? terminal || !input_kept : terminal && about == STDOUT) continue; /* STDERR is the runtime's, then */
        if (pipe2(pair, O_CLOEXEC) < 0) fail("pipe");
        fds[about] = pair[ours];
        ends[ours ? 0 : about + 1] = pair[!ours];
        (void)!fcntl(fds[about], F_SETFL, O_NONBLOCK);
        if (!ours) watch(about, EPOLLIN);
    }
}

static _Noreturn void usage(bool asked) {
    static const char text[] = "ropewalk-monitor " VERSION "\nstarted by ropewalk, or by containerd: "
                               "binary:///.../ropewalk-monitor?log=PATH\n";
    _exit(write(asked ? STDOUT_FILENO : STDERR_FILENO, text, sizeof text - 1) < 0 || !asked);
}

static _Noreturn void run_container(const char *log, const char *end, const char *flags, char **words) {
    for (int i = 0; i < 4 && *words; i++) {
        commands[i] = words;
        while (*words && **words) words++;
        if (*words) *words++ = NULL;
    }
    if (!commands[UNDO] || !commands[START] != !commands[WAIT]) usage(false);
    terminal = strchr(flags, 't');
    in.once = strchr(flags, 'o');
    set_up_process(4);
    fds[DAEMON] = 3;
    (void)!fcntl(3, F_SETFD, FD_CLOEXEC);
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* the container is ours when its creator ends */
    set_up_files(*log ? log : NULL);
    if (*end) set_up_end_file(end);
    set_up_streams(strchr(flags, 'i'));
    watch(DAEMON, EPOLLIN);
    loop();
}

static _Noreturn void run_logger(char **argv) {
    const char *log = NULL, *directory = NULL;
    for (; argv[0] && argv[1]; argv += 2) *(strcmp(argv[0], "log") ? &directory : &log) = argv[1];
    if (!log) usage(false);
    set_up_process(6);
    if (directory && chdir(directory) < 0) fail(directory);
    if (directory) set_up_files(*log ? log : NULL);
    else if ((journal.fd = open_log(log)) < 0) fail(log);
    for (int about = STDOUT; about <= STDERR; about++) {
        fds[about] = about + 3;
        (void)!fcntl(fds[about], F_SETFL, O_NONBLOCK);
        (void)!fcntl(fds[about], F_SETFD, FD_CLOEXEC);
        watch(about, EPOLLIN);
    }
    close(5);
    loop();
}

int main(int argc, char **argv) {
    if (argc > 7 && !strcmp(argv[1], "run")) {
        memory = argv[4];
        run_container(argv[2], argv[3], argv[5], argv + 6);
    }
    if (argc > 2) run_logger(argv + 1);
    usage(argc == 2 && !strcmp(argv[1], "--version"));
}
