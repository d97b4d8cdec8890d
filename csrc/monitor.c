/* ropewalk-monitor: one small process per container. It owns the container's standard streams, its log and its exit
 * code, and outlives the daemon that started it.
 *
 *   ropewalk-monitor run LOG EXIT PART MEMORY FLAGS CREATE... "" UNDO... "" [START... "" WAIT... ""]
 *       Its directory is the bundle; descriptor 3 is a SEQPACKET socket to the daemon. It makes `ctl` and `attach`,
 *       waits for a packet, runs the command CREATE with the container's streams, and answers a packet: "+PID" (from
 *       the file `pid`) or "-what the runtime wrote". What went wrong here is written to standard error. If the daemon
 *       goes away before the answer, what was begun is undone: UNDO is run, and what was made here is removed.
 *       LOG, in CRI format, "" for none; EXIT, the file for the exit code, which appears when all output is in the log,
 *       and PART, its name until then; MEMORY, the memory.events of the container's cgroup, "" for none: at the end
 *       there is a file `oom` if its OOM killer was at work, `spared` if not, neither if the cgroup was gone too soon.
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
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
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
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    STAMP = 30,      /* bytes of a time */
    LINE = 16384,    /* longest content of one log line, as containerd's */
    CHUNK = 65536,   /* one read: all that a pipe holds by default */
    BATCH = 131072,  /* longest write to the log */
    TURN = 1 << 20,  /* bytes taken from one stream before the others are looked at */
    QUEUE = 4 << 20, /* bytes that an attacher may lag behind before it is dropped */
    QUIET = 100,     /* ms after which an unfinished line is shown */
    RETRY = 1000,    /* ms between attempts to write to a full disk */
    IDLE = 1000,     /* ms of silence after which the buffers are given back */
    HASTE = 16,      /* reads in one tick of the clock (1 to 10 ms) after which small ones are put off ... */
    NAP = 500000,    /* ... for so many ns: to wake us for a line costs the container more than to write it */
    ROOM = 1 << 19,  /* bytes that its pipe holds meanwhile */
    PATIENCE = 30,   /* seconds for the runtime to undo its create */
    WAITS = 5,       /* times that `wait` is run again because somebody killed it */
    LOST = 137,      /* exit code where `wait` cannot tell: what ran the container was killed */
    PROTOCOL = 2,    /* of arguments, packets and files; ropewalk/runtimes/monitors/own.py asks for it */
};

enum { CREATE, UNDO, START, WAIT }; /* commands */
/* What an event is about: an index of `fds`. Attachers are PEER and above; PEERS is a poller of them. */
enum { STDIN, STDOUT, STDERR, SIGNALS, DAEMON, CTL, ATTACH, PEERS, CONSOLE, EVENTS, PEER, ALL = PEER + 16 };

struct stream {
    const char *name; /* with blanks around it, as in the log */
    char *buffer;     /* LINE + CHUNK bytes; the first `held` are a line whose end has not come */
    size_t held;
    long since; /* when the last of it came */
};

static _Alignas(4096) struct { char streams[2][LINE + CHUNK], batch[BATCH], input[CHUNK]; } buffers;
static struct stream streams[] = {
    [STDOUT] = {" stdout ", buffers.streams[0], 0, 0}, [STDERR] = {" stderr ", buffers.streams[1], 0, 0}};
static struct { const char *path; int fd, error; size_t begin, end; long lost, retry; } journal = {.fd = -1};
static struct { size_t begin, end; bool once; } in;
static char **commands[4];
static struct { pid_t creator, container, starter, waiter; } pids;
static const char *exit_path, *part_path = "", *memory_path;
static struct winsize size;
static int fds[ALL + 1] = {[0 ... ALL] = -1}, ends[3] = {-1, -1, -1}; /* the container's ends of its pipes */
static sigset_t signals; /* all that can be blocked; SIGPIPE and SIGXFSZ, too: write(2) tells */
static int poller, told = -1, waits; /* told: what `wait` writes */
static bool terminal;
static long now; /* ms on no particular clock */
static char stamp[66]; /* STAMP bytes of it; the compiler wants room for any number */

/* No events: not any more. An error is ENOSPC: that one is not heard, the rest goes on. */
static void watch(int about, unsigned events) {
    struct epoll_event event = {.events = events, .data.u32 = (unsigned)about};
    int of = about < PEER ? poller : fds[PEERS];
    epoll_ctl(of, EPOLL_CTL_DEL, fds[about], NULL);
    if (events) epoll_ctl(of, EPOLL_CTL_ADD, fds[about], &event);
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

/* The time that the lines of one read get: RFC 3339, UTC. Not by gmtime_r(3), which reads /etc/localtime, but by
 * civil_from_days of http://howardhinnant.github.io/date_algorithms.html: years begin in March. */
static void read_time(void) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    unsigned days = (unsigned)(time.tv_sec / 86400) + 719468, era = days / 146097, of_era = days % 146097;
    unsigned years = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    unsigned of_year = of_era - (365 * years + years / 4 - years / 100), march = (5 * of_year + 2) / 153;
    unsigned month = march < 10 ? march + 3 : march - 9, day = of_year - (153 * march + 2) / 5 + 1;
    unsigned year = years + era * 400 + (month <= 2), of_day = (unsigned)(time.tv_sec % 86400);
    snprintf(stamp, sizeof stamp, "%04u-%02u-%02uT%02u:%02u:%02u.%09ldZ", year, month, day, of_day / 3600,
             of_day / 60 % 60, of_day % 60, time.tv_nsec);
}

/* The log. Lines are put into `batch` and written together. While the disk is full the batch is kept, later lines are
 * counted and dropped, and as soon as there is room again the log says so at that place. */
static void write_batch(bool at_once) {
    if (journal.error && now < journal.retry && !at_once) return;
    for (ssize_t count; journal.begin < journal.end; journal.begin += (size_t)count) {
        count = TEMP_FAILURE_RETRY(write(journal.fd, buffers.batch + journal.begin, journal.end - journal.begin));
        if (count > 0) continue;
        journal.error = count < 0 ? errno : ENOSPC;
        journal.retry = now + RETRY;
        return;
    }
    journal.begin = journal.end = 0;
    if (!(journal.error = journal.lost ? journal.error : 0)) return;
    read_time();
    journal.end = (size_t)snprintf(buffers.batch, BATCH, "%s stderr F ropewalk-monitor: %ld lines were lost: %s\n",
                                   stamp, journal.lost, strerror(journal.error));
    journal.lost = 0;
    write_batch(true);
}

static void put_line(const struct stream *stream, char kind, const char *text, size_t length) {
    size_t all = STAMP + 10 + length + 1;
    if (journal.fd < 0) return;
    if (journal.end + all > BATCH) write_batch(false);
    if (journal.end + all > BATCH || journal.lost) {
        journal.lost++;
        return;
    }
    char *to = mempcpy(mempcpy(buffers.batch + journal.end, stamp, STAMP), stream->name, 8);
    to[0] = kind, to[1] = ' ';
    *(char *)mempcpy(to + 2, text, length) = '\n';
    journal.end += all;
}

static int open_log(const char *path) {
    struct stat status;
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0640);
    if (fd < 0 || (fstat(fd, &status) == 0 && S_ISREG(status.st_mode))) return fd;
    close(fd);
    errno = EINVAL;
    return -1;
}

/* Write to LOG.tmp, which the daemon has made, and let it be LOG. If that fails, the old file stays in use. What came
 * before belongs to the old file; what has no room there goes to the new one, from a line's begin. */
static void reopen_log(void) {
    char temporary[PATH_MAX];
    if (!journal.path) return;
    snprintf(temporary, sizeof temporary, "%s.tmp", journal.path);
    int fd = open_log(temporary);
    if (fd >= 0 && rename(temporary, journal.path) < 0) drop(&fd);
    if (fd < 0) return;
    write_batch(true);
    journal.lost += journal.begin > 0 && buffers.batch[journal.begin - 1] != '\n';
    while (journal.begin > 0 && buffers.batch[journal.begin - 1] != '\n') journal.begin++;
    drop(&journal.fd);
    journal.fd = fd;
    write_batch(true);
}

/* Attachers, and the standard input that they write. */
static bool send_packet(int fd, char first, const char *data, size_t length) {
    return writev(fd, (struct iovec[]){{&first, 1}, {(char *)data, length}}, 2) >= 0;
}

/* One that does not keep up is let go: nothing waits for it. What it has written is read before it is forgotten. */
static void show(char tag, const char *data, size_t length) {
    for (int about = PEER; about < ALL; about++)
        if (fds[about] >= 0 && !send_packet(fds[about], tag, data, length)) shutdown(fds[about], SHUT_RDWR);
}

/* Attachers have a poller of their own, which is not looked at while the container has no room for what one wrote. */
static void write_input(void) {
    while (in.begin < in.end && fds[STDIN] >= 0) {
        ssize_t count = TEMP_FAILURE_RETRY(write(fds[STDIN], buffers.input + in.begin, in.end - in.begin));
        if (count < 0 && errno == EAGAIN) {
            watch(STDIN, EPOLLOUT);
            watch(PEERS, 0);
            return;
        }
        if (count < 0) discard(STDIN); /* the container has closed it */
        else in.begin += (size_t)count;
    }
    in.begin = in.end = 0;
    if (fds[STDIN] >= 0) watch(STDIN, 0);
    watch(PEERS, EPOLLIN);
}

/* One packet, since there may be no room for a second. An empty one at the end is the end. Who leaves output unread
 * resets the connection: that comes before what it has written. */
static void read_input(void) {
    struct epoll_event event;
    if (epoll_wait(fds[PEERS], &event, 1, 0) <= 0) return;
    int about = (int)event.data.u32;
    ssize_t count = TEMP_FAILURE_RETRY(recv(fds[about], buffers.input, sizeof buffers.input, 0));
    bool end = count == 0 && event.events & (EPOLLRDHUP | EPOLLHUP);
    if (end && in.once && !terminal) discard(STDIN);
    if ((count < 0 && errno != EAGAIN && errno != ECONNRESET) || (end && event.events & EPOLLHUP)) discard(about);
    else if (end) watch(about, EPOLLHUP); /* it has nothing more to say, but may listen */
    in.end = count > 0 ? (size_t)count : 0;
    write_input();
}

static void accept_peers(void) {
    int fd, about, queue = QUEUE;
    while ((fd = accept4(fds[ATTACH], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        for (about = PEER; about < ALL && fds[about] >= 0;) about++;
        for (int old = PEER; about == ALL && old < ALL; old++) /* who left while nobody looked: see write_input */
            if (poll(&(struct pollfd){.fd = fds[old]}, 1, 0) > 0) discard(about = old);
        (void)!setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &queue, sizeof queue);
        fds[about] = fd;
        watch(about, EPOLLIN | EPOLLRDHUP);
        if (about == ALL) discard(about); /* one too many */
    }
}

/* `count` bytes came behind those held. */
static void take(struct stream *stream, size_t count) {
    char *line = stream->buffer, *from = line + stream->held, *end = from + count, *feed;
    show(stream == &streams[STDOUT] ? 2 : 3, from, count);
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
    if (stream->held == 0) return;
    read_time();
    put_line(stream, 'P', stream->buffer, stream->held);
    stream->held = 0;
}

/* Read what is there, at most about `limit` bytes; `all`: until nothing is, for a short read may be one of many. Who
 * wakes us for each of its lines spends most of its time on that: it is left alone for a while, with room to go on. */
static void pump(int about, size_t limit, bool all) {
    static struct { long tick; int reads; size_t last; } haste;
    struct stream *stream = &streams[about];
    haste.reads = haste.tick == now ? haste.reads + 1 : 0;
    haste.tick = now;
    if (!all && haste.reads > HASTE && haste.last < CHUNK / 2) {
        (void)!fcntl(fds[about], F_SETPIPE_SZ, ROOM);
        watch(about, 0); /* writes cost less where nobody polls */
        nanosleep(&(struct timespec){.tv_nsec = NAP}, NULL);
        watch(about, EPOLLIN);
    }
    ssize_t count = CHUNK;
    for (haste.last = 0; (all || count == CHUNK) && haste.last < limit; haste.last += (size_t)count) {
        count = TEMP_FAILURE_RETRY(read(fds[about], stream->buffer + stream->held, CHUNK));
        if (count <= 0) break;
        read_time();
        if (about == STDERR && pids.creator) /* the runtime speaks: to be kept, not logged */
            stream->held = stream->held + (size_t)count < LINE ? stream->held + (size_t)count : LINE;
        else
            take(stream, (size_t)count);
    }
    if (count == 0 || (count < 0 && errno != EAGAIN)) {
        show_unfinished(stream);
        discard(about);
    }
    write_batch(false);
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
        (void)!ioctl(fds[STDOUT], TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC); /* kept, so that it never hangs up */
        watch(STDOUT, EPOLLIN);
        discard(CONSOLE);
    }
    drop(&fd);
}

/* -1 with errno. Where `given` is below 0, the command has our own stream, which is /dev/null. */
static pid_t run(char **argv, const int given[3]) {
    errno = 0;
    pid_t pid = vfork(); /* until its exec the child has our memory, and with it errno */
    if (pid != 0) return errno ? -1 : pid;
    setpgid(0, 0); /* what it starts dies with it in `undo` */
    sigprocmask(SIG_UNBLOCK, &signals, NULL);
    for (int i = 0; i < 3; i++)
        if (given[i] >= 0) dup2(given[i], i);
    execv(argv[0], argv);
    _exit(127);
}

static void remove_files(void) {
    const char *names[] = {"ctl", "attach", "console", part_path};
    for (int i = 0; i < 4 && fds[CTL] >= 0; i++) unlink(names[i]);
}

/* The daemon has gone, or could not be told: nothing may be left. */
static void undo(void) {
    alarm(PATIENCE);
    if (pids.creator > 0) {
        if (kill(-pids.creator, SIGKILL) == 0) waitpid(pids.creator, NULL, 0);
        if ((pids.creator = run(commands[UNDO], ends)) > 0) waitpid(pids.creator, NULL, 0);
    }
    remove_files();
    _exit(1);
}

/* As it happens: systemd removes a cgroup, and its count, as soon as nothing lives there. */
static void read_events(void) {
    char text[256] = "", *found = NULL;
    if (fds[EVENTS] >= 0 && pread(fds[EVENTS], text, sizeof text - 1, 0) > 0) found = strstr(text, "oom_kill ");
    bool met = found && atoi(found + sizeof "oom_kill") > 0;
    if (met) (void)!mknod("oom", S_IFREG | 0600, 0);
    if (met || !found) discard(EVENTS);
}

/* For a file that is renamed then: who reads it finds all or nothing. */
static bool write_number(const char *path, int flags, int number) {
    char text[16];
    int length = snprintf(text, sizeof text, "%d", number);
    int fd = open(path, O_WRONLY | O_NOFOLLOW | O_CLOEXEC | flags, 0600);
    bool whole = fd >= 0 && pwrite(fd, text, (size_t)length, 0) == length && ftruncate(fd, length) == 0;
    drop(&fd);
    return whole;
}

/* `create` has ended. */
static void conclude(int status) {
    char text[16] = "";
    pump(STDERR, LINE, true);
    size_t length = streams[STDERR].held;
    if (status != 0) {
        send_packet(fds[DAEMON], '-', streams[STDERR].buffer, length);
        remove_files();
        _exit(1);
    }
    if (terminal && fds[STDOUT] < 0) receive_terminal();
    int fd = open("pid", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, text, sizeof text - 1) <= 0 || (pids.container = atoi(text)) <= 0)
        err(1, "the runtime's pid file");
    drop(&fd);
    if (!send_packet(fds[DAEMON], '+', text, strspn(text, "0123456789"))) undo();
    discard(DAEMON);
    pids.creator = 0;
    if ((fds[EVENTS] = open(memory_path, O_RDONLY | O_CLOEXEC)) >= 0) watch(EVENTS, EPOLLPRI);
    streams[STDERR].held = 0;
    if (length > 0) take(&streams[STDERR], length); /* a warning, then */
    if (commands[START]) return;
    for (int i = 0; i < 3; i++) drop(&ends[i]);
    /* Not before: what we start would inherit it. Without CAP_SYS_RESOURCE it stays what the daemon has. */
    write_number("/proc/self/oom_score_adj", 0, -1000);
}

/* The end. Who else has the pipes open may go on writing: only what is there now is taken. `code` -1: no exit file. An
 * exit file that cannot be written is tried again, for somebody waits for it; not if its directory was removed. */
static _Noreturn void finish(int code) {
    read_events();
    if (fds[EVENTS] >= 0) (void)!mknod("spared", S_IFREG | 0600, 0); /* its OOM killer was not at work */
    for (int about = STDOUT; about <= STDERR; about++) {
        pump(about, terminal ? TURN : (size_t)fcntl(fds[about], F_GETPIPE_SZ), true);
        show_unfinished(&streams[about]);
    }
    write_batch(true);
    if (code < 0) remove_files();
    while (code >= 0 && !(write_number(part_path, 0, code) && rename(part_path, exit_path) == 0) && errno != ENOENT)
        sleep(1);
    _exit(0);
}

static void wait_by_command(void) {
    told = memfd_create("wait", MFD_CLOEXEC);
    if ((pids.waiter = run(commands[WAIT], (const int[]){-1, told, -1})) < 0) finish(LOST);
}

/* `start` has ended. Unless it went well it may be tried again. */
static void begin(int status) {
    if (write_number("started.tmp", O_CREAT, WIFEXITED(status) ? WEXITSTATUS(status) : LOST))
        (void)!rename("started.tmp", "started");
    pids.starter = 0;
    if (status != 0) return;
    for (int i = 0; i < 3; i++) drop(&ends[i]);
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

static void read_ctl(void) {
    static char text[PIPE_BUF + 1], *end = text; /* up to `end`: a line whose rest the last read had no room for */
    ssize_t count = read(fds[CTL], end, (size_t)(text + PIPE_BUF - end));
    char *line = text, *rest, *feed;
    *(end += count > 0 ? count : 0) = 0;
    for (; (feed = strchr(line, '\n')); line = feed + 1) {
        long command = strtol(line, &rest, 10), height = strtol(rest, &rest, 10), width = strtol(rest, &rest, 10);
        if (command == 1) {
            size = (struct winsize){.ws_row = (unsigned short)height, .ws_col = (unsigned short)width};
            if (terminal && fds[STDOUT] >= 0) (void)!ioctl(fds[STDOUT], TIOCSWINSZ, &size);
        } else if (command == 2) {
            reopen_log();
        } else if (command == 3 && commands[START] && !pids.starter && !pids.waiter) {
            if ((pids.starter = run(commands[START], ends)) < 0) begin(LOST << 8);
        }
    }
    size_t left = end - line < PIPE_BUF ? (size_t)(end - line) : 0;
    memmove(text, line, left);
    end = text + left;
}

/* While `create` runs no other is reaped: the container's own end must wait until its pid is known. */
static void read_signals(void) {
    struct signalfd_siginfo info;
    int status;
    while (read(fds[SIGNALS], &info, sizeof info) == sizeof info)
        if (info.ssi_signo == SIGTERM) pids.creator ? undo() : finish(-1);
    if (pids.creator && waitpid(pids.creator, &status, WNOHANG) > 0) conclude(status);
    for (pid_t pid; !pids.creator && (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        if (pid == pids.starter) begin(status);
        else if (pid == pids.waiter) understand(status);
        else if (pid == pids.container && !commands[WAIT])
            finish(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status));
    }
}

static void read_daemon(void) {
    char packet[16];
    if (recv(fds[DAEMON], packet, sizeof packet, 0) <= 0) undo();
    if ((pids.creator = run(commands[CREATE], ends)) < 0) err(1, "%s", commands[CREATE][0]);
}

static void (*const handlers[])(void) = {
    [STDIN] = write_input, [SIGNALS] = read_signals, [DAEMON] = read_daemon, [CTL] = read_ctl, [ATTACH] = accept_peers,
    [PEERS] = read_input, [CONSOLE] = receive_terminal, [EVENTS] = read_events,
};

static _Noreturn void loop(void) {
    struct epoll_event events[8];
    struct timespec time;
    for (bool idle = true;;) {
        bool held = false;
        for (struct stream *stream = &streams[STDOUT]; stream <= &streams[STDERR] && !pids.creator; stream++) {
            if (now - stream->since >= QUIET) show_unfinished(stream);
            held |= stream->held > 0;
        }
        write_batch(false);
        int count = epoll_wait(poller, events, 8, held ? QUIET : journal.end > 0 ? RETRY : idle ? -1 : IDLE);
        clock_gettime(CLOCK_MONOTONIC_COARSE, &time);
        now = time.tv_sec * 1000 + time.tv_nsec / 1000000;
        idle = count == 0 && !held && !journal.end && !in.end && !pids.creator; /* whose words are kept */
        if (idle) madvise(&buffers, sizeof buffers, MADV_DONTNEED);
        for (int about = STDOUT; idle && about <= STDERR; about++) (void)!fcntl(fds[about], F_SETPIPE_SZ, CHUNK);
        for (int i = 0; i < count; i++) {
            int about = (int)events[i].data.u32;
            if (fds[about] < 0) continue; /* closed by an earlier event of this round */
            if (handlers[about]) handlers[about]();
            else pump(about, TURN, false);
        }
        if (!commands[CREATE] && fds[STDOUT] < 0 && fds[STDERR] < 0) finish(-1);
    }
}

/* Setting up. */
static void set_up_process(unsigned first_foreign) {
    atexit(undo); /* by err(3) */
    close_range(first_foreign, ~0U, 0);
    sigfillset(&signals);
    sigdelset(&signals, SIGALRM);
    sigprocmask(SIG_SETMASK, &signals, NULL); /* not ignored: that, commands would inherit */
    prctl(PR_SET_DUMPABLE, 0); /* nobody but root looks into it */
    poller = epoll_create1(EPOLL_CLOEXEC);
    fds[SIGNALS] = signalfd(-1, &signals, SFD_NONBLOCK | SFD_CLOEXEC);
    fds[PEERS] = epoll_create1(EPOLL_CLOEXEC);
    if (poller < 0 || fds[SIGNALS] < 0 || fds[PEERS] < 0) err(1, "signals");
    watch(SIGNALS, EPOLLIN);
    watch(PEERS, EPOLLIN);
}

static void listen_at(const char *name, int about, int type) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    stpcpy(address.sun_path, name);
    unlink(name);
    int fd = fds[about] = socket(AF_UNIX, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(fd, 64) < 0)
        err(1, "%s", name);
    watch(about, EPOLLIN | EPOLLET); /* once: without a descriptor for accept(2) it would come again for ever */
}

static void set_up_files(const char *log) {
    listen_at("attach", ATTACH, SOCK_SEQPACKET);
    (void)!mkfifo("ctl", 0600); /* there may be that of another logger before */
    if ((fds[CTL] = open("ctl", O_RDWR | O_NONBLOCK | O_CLOEXEC)) < 0) err(1, "ctl");
    watch(CTL, EPOLLIN); /* open for both, so that it has no end when a writer goes */
    if (terminal) listen_at("console", CONSOLE, SOCK_STREAM);
    journal.path = log;
    if (log && (journal.fd = open_log(log)) < 0) err(1, "%s", log);
}

static void set_up_streams(bool input_kept) {
    int pair[2];
    for (int about = STDIN; about <= STDERR; about++) {
        bool input = about == STDIN;
        if (input ? terminal || !input_kept : terminal && about == STDOUT) continue; /* STDERR is the runtime's, then */
        if (pipe2(pair, O_CLOEXEC) < 0) err(1, "pipe");
        fds[about] = pair[input];
        ends[about] = pair[!input];
        (void)!fcntl(fds[about], F_SETFL, O_NONBLOCK);
        if (!input) watch(about, EPOLLIN);
    }
}

static _Noreturn void run_container(char **words) {
    const char *log = words[0], *flags = words[4];
    exit_path = words[1], part_path = words[2], memory_path = words[3];
    words += 5;
    for (int i = 0; i < 4 && *words; i++) {
        commands[i] = words;
        while (*words && **words) words++;
        if (*words) *words++ = NULL;
    }
    if (!commands[UNDO] || !commands[START] != !commands[WAIT]) errx(1, "a command is missing");
    terminal = strchr(flags, 't');
    in.once = strchr(flags, 'o');
    set_up_process(4);
    fds[DAEMON] = 3;
    (void)!fcntl(3, F_SETFD, FD_CLOEXEC);
    prctl(PR_SET_CHILD_SUBREAPER, 1); /* the container is ours when its creator ends */
    set_up_files(*log ? log : NULL);
    /* Its content is reserved now, so that a disk which is full by then does not hide the end. */
    if (!write_number(part_path, O_CREAT | O_TRUNC, 255)) err(1, "%s", part_path);
    set_up_streams(strchr(flags, 'i'));
    watch(DAEMON, EPOLLIN);
    loop();
}

static _Noreturn void run_logger(char **pairs) {
    const char *log = NULL, *directory = NULL;
    for (; pairs[0] && pairs[1]; pairs += 2) *(strcmp(pairs[0], "log") ? &directory : &log) = pairs[1];
    if (!log) errx(1, "no log");
    set_up_process(6);
    if (directory && chdir(directory) < 0) err(1, "%s", directory);
    if (directory) set_up_files(*log ? log : NULL);
    else if ((journal.fd = open_log(log)) < 0) err(1, "%s", log);
    for (int about = STDOUT; about <= STDERR; about++) {
        fds[about] = about + 2;
        (void)!fcntl(fds[about], F_SETFL, O_NONBLOCK);
        watch(about, EPOLLIN);
    }
    close(5);
    loop();
}

int main(int argc, char **argv) {
    if (argc > 8 && !strcmp(argv[1], "run")) run_container(argv + 2);
    if (argc > 2) run_logger(argv + 1);
    bool asked = argc == 2 && !strcmp(argv[1], "--version");
    dprintf(asked ? STDOUT_FILENO : STDERR_FILENO, "ropewalk-monitor " VERSION ", protocol %d\n", PROTOCOL);
    return !asked;
}
