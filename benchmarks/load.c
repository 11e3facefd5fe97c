/* The inner loop of the load: sends frames encoded beforehand and counts the returned ones.
 *
 * Compiled by load.py and called through ctypes. Python opens the connections and does the handshakes.
 */
#include "frames.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BUFFER_BYTES = 128 * 1024, EVENTS = 256 };

struct connection {
    int fd;
    uint32_t have;      /* bytes of an unfinished frame at the start of the buffer */
    int64_t sent;       /* frames sent so far */
    int64_t in_flight;
    uint8_t buffer[BUFFER_BYTES];
};

struct load {
    int epoll;
    int connections;
    int format;
    int64_t frames;          /* how many frames are encoded */
    const uint8_t *bytes;    /* all of them, one after the other */
    const int64_t *offsets;  /* frame i is bytes[offsets[i]..offsets[i + 1]) */
    struct connection *each;
    double idle_s;           /* time in which nothing had come back */
};

/* Counts complete messages. Returns their size, or -1 for invalid data. */
static int64_t parse(int format, const uint8_t *data, int64_t size, int64_t *messages)
{
    int64_t at = 0;
    for (;;) {
        enum frame_kind kind;
        int64_t length = next_frame(format, data + at, size - at, &kind);
        if (length < 0)
            return -1;
        if (length == 0)
            return at;
        *messages += kind == MESSAGE;
        at += length;
    }
}

static int send_frames(struct load *load, struct connection *c, int64_t count)
{
    if (count > load->frames - c->sent)
        count = load->frames - c->sent;
    const uint8_t *from = load->bytes + load->offsets[c->sent];
    const uint8_t *end = load->bytes + load->offsets[c->sent + count];
    while (from < end) {
        ssize_t n = send(c->fd, from, (size_t)(end - from), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0) {
            from += n;
        } else if (errno == EAGAIN) {
            struct pollfd p = {.fd = c->fd, .events = POLLOUT};
            poll(&p, 1, 1000);
        } else if (errno != EINTR) {
            return -1;
        }
    }
    c->sent += count;
    c->in_flight += count;
    return 0;
}

struct load *load_new(int connections, const int *fds, int format, int64_t frames, const uint8_t *bytes,
                      const int64_t *offsets)
{
    struct load *load = calloc(1, sizeof *load);
    if (!load)
        return NULL;
    load->each = calloc((size_t)connections, sizeof *load->each);
    load->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!load->each || load->epoll < 0)
        return NULL;
    load->connections = connections;
    load->format = format;
    load->frames = frames;
    load->bytes = bytes;
    load->offsets = offsets;
    for (int i = 0; i < connections; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        load->each[i].fd = fds[i];
        if (epoll_ctl(load->epoll, EPOLL_CTL_ADD, fds[i], &event) < 0)
            return NULL;
    }
    return load;
}

int load_start(struct load *load, int in_flight)
{
    for (int i = 0; i < load->connections; i++)
        if (send_frames(load, &load->each[i], in_flight) < 0)
            return -1;
    return 0;
}

/* Runs for that many seconds. Returns the number of returned messages, or -1 if a connection broke.
 * With `refill`, each returned message sends the next one; without, it returns early when all have returned.
 * With `spin` it never sleeps: waking it would cost the server time, which a client on another machine would not. */
int64_t load_run(struct load *load, double seconds, int refill, int spin)
{
    struct epoll_event events[EVENTS];
    int64_t total = 0;
    double now = now_s(), end = now + seconds;
    load->idle_s = 0;
    while (now < end) {
        int ready = epoll_wait(load->epoll, events, EVENTS, spin ? 0 : 50);
        if (ready == 0 || !spin) {
            double before = now;
            now = now_s();
            load->idle_s += now - before;
            if (ready == 0 && refill)
                continue;
        }
        for (int i = 0; i < ready; i++) {
            struct connection *c = &load->each[events[i].data.u32];
            ssize_t n = recv(c->fd, c->buffer + c->have, BUFFER_BYTES - c->have, MSG_DONTWAIT);
            if (n < 0 && (errno == EAGAIN || errno == EINTR))
                continue;
            if (n <= 0)
                return -1;
            int64_t have = c->have + n, messages = 0;
            int64_t used = parse(load->format, c->buffer, have, &messages);
            if (used < 0)
                return -1;
            if (used < have)
                memmove(c->buffer, c->buffer + used, (size_t)(have - used));
            c->have = (uint32_t)(have - used);
            c->in_flight -= messages;
            total += messages;
            if (refill && messages && send_frames(load, c, messages) < 0)
                return -1;
        }
        if (!refill) {
            int64_t in_flight = 0;
            for (int i = 0; i < load->connections; i++)
                in_flight += load->each[i].in_flight;
            if (in_flight == 0)
                break;
        }
        now = now_s();
    }
    return total;
}

/* Sends one message at a time on the first connection, for that many seconds (but at least two), or `count_max`.
 * Stores the round-trip time of each. Returns their number, or -1 if the connection broke. */
int64_t load_round_trips(struct load *load, double seconds, int64_t count_max, double *away_s)
{
    struct connection *c = load->each;
    int64_t count = 0;
    double now = now_s(), end = now + seconds;
    while ((now < end || count < 2) && count < count_max && c->sent < load->frames) {
        double sent_at = now;
        int64_t messages = 0;
        if (send_frames(load, c, 1) < 0)
            return -1;
        while (messages == 0) {
            ssize_t n = recv(c->fd, c->buffer + c->have, BUFFER_BYTES - c->have, MSG_DONTWAIT);
            if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
                if (now_s() - sent_at > 5)
                    return -1;
                continue;
            }
            if (n <= 0)
                return -1;
            int64_t have = c->have + n;
            int64_t used = parse(load->format, c->buffer, have, &messages);
            if (used < 0)
                return -1;
            memmove(c->buffer, c->buffer + used, (size_t)(have - used));
            c->have = (uint32_t)(have - used);
        }
        c->in_flight -= messages;
        now = now_s();
        away_s[count++] = now - sent_at;
    }
    return count;
}

int64_t load_in_flight(const struct load *load)
{
    int64_t in_flight = 0;
    for (int i = 0; i < load->connections; i++)
        in_flight += load->each[i].in_flight;
    return in_flight;
}

/* Idle seconds of the last run. */
double load_idle_s(const struct load *load)
{
    return load->idle_s;
}

int64_t load_sent(const struct load *load, int connection)
{
    return load->each[connection].sent;
}

void load_free(struct load *load)
{
    close(load->epoll);
    free(load->each);
    free(load);
}
