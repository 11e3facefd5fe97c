/* Many connections that mostly listen: they count messages and answer the server's pings.
 *
 * Compiled with load.c. Python opens the connections and does the handshakes.
 */
#include "frames.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MEMBER_BUFFER_BYTES = 2048, MEMBER_EVENTS = 512 };

struct member {
    int fd;
    uint32_t have;     /* bytes of an unfinished frame at the start of the buffer */
    int64_t messages;
    uint64_t sequence; /* of the last DATA frame of landline */
    uint64_t told;     /* acknowledged up to here */
    uint8_t buffer[MEMBER_BUFFER_BYTES];
};

struct crowd {
    int epoll;
    int format;
    int members;
    int64_t messages;
    int64_t pings;
    double last_at; /* when the last message so far was here, on CLOCK_MONOTONIC */
    struct member *each;
};

static uint32_t crc_table[256];

static uint32_t crc32_of(const uint8_t *data, size_t size)
{
    uint32_t crc = 0xffffffffu;
    if (!crc_table[1])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int bit = 0; bit < 8; bit++)
                c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
            crc_table[i] = c;
        }
    while (size--)
        crc = crc >> 8 ^ crc_table[(crc ^ *data++) & 0xff];
    return ~crc;
}

static void put_big_endian(uint8_t *at, uint64_t value, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--, value >>= 8)
        at[i] = (uint8_t)value;
}

static uint64_t get_u64(const uint8_t *at)
{
    uint64_t value = 0;
    for (int i = 0; i < 8; i++)
        value = value << 8 | at[i];
    return value;
}

static int send_all(const struct member *m, const uint8_t *data, size_t size)
{
    /* A few bytes into an empty socket buffer: all of them, or the connection is broken. */
    return send(m->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)size ? 0 : -1;
}

static int answer_ping(int format, struct member *m, const uint8_t *frame, int64_t size)
{
    uint8_t out[160];
    if (format == LANDLINE) {
        /* u32 length, u8 kind, u64 number, u64 sender's time, u64 taken, u32 CRC-32 of the three */
        if (size != 33)
            return -1;
        put_big_endian(out, 29, 4);
        out[4] = LANDLINE_PONG;
        memcpy(out + 5, frame + 5, 16);
        put_big_endian(out + 21, m->sequence, 8);
        put_big_endian(out + 29, crc32_of(out + 5, 24), 4);
        m->told = m->sequence;
        return send_all(m, out, 33);
    }
    if (format == WEBSOCKET) {
        /* The same payload, masked with zero. */
        size_t length = frame[1];
        if (length > 125)
            return -1;
        out[0] = 0x8a;
        out[1] = (uint8_t)(0x80 | length);
        memset(out + 2, 0, 4);
        memcpy(out + 6, frame + 2, length);
        return send_all(m, out, 6 + length);
    }
    if (format == SOCKETIO)
        return send_all(m, (const uint8_t *)"\x81\x81\0\0\0\0" "3", 7);
    if (format == NATS)
        return send_all(m, (const uint8_t *)"PONG\r\n", 6);
    return -1;
}

struct crowd *crowd_new(int members, const int *fds, int format)
{
    struct crowd *crowd = calloc(1, sizeof *crowd);
    if (!crowd)
        return NULL;
    crowd->each = calloc((size_t)members, sizeof *crowd->each);
    crowd->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!crowd->each || crowd->epoll < 0)
        return NULL;
    crowd->members = members;
    crowd->format = format;
    for (int i = 0; i < members; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        crowd->each[i].fd = fds[i];
        if (epoll_ctl(crowd->epoll, EPOLL_CTL_ADD, fds[i], &event) < 0)
            return NULL;
    }
    return crowd;
}

static int64_t receive(struct crowd *crowd, struct member *m)
{
    ssize_t n = recv(m->fd, m->buffer + m->have, MEMBER_BUFFER_BYTES - m->have, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    if (n <= 0)
        return -1;
    int64_t have = m->have + n, at = 0, messages = 0;
    for (;;) {
        enum frame_kind kind;
        const uint8_t *frame = m->buffer + at;
        int64_t size = next_frame(crowd->format, frame, have - at, &kind);
        if (size < 0)
            return -1;
        if (size == 0)
            break;
        if (kind == MESSAGE) {
            messages++;
            if (crowd->format == LANDLINE)
                m->sequence = get_u64(frame + 5);
        } else if (kind == PING) {
            if (answer_ping(crowd->format, m, frame, size) < 0)
                return -1;
            crowd->pings++;
        }
        at += size;
    }
    if (at < have)
        memmove(m->buffer, m->buffer + at, (size_t)(have - at));
    m->have = (uint32_t)(have - at);
    m->messages += messages;
    return messages;
}

/* Receives for that many seconds, or until that many messages (if `until` is not 0).
 * Returns the number of messages, or -1 if a connection broke. */
int64_t crowd_run(struct crowd *crowd, double seconds, int64_t until, int spin)
{
    struct epoll_event events[MEMBER_EVENTS];
    int64_t total = 0;
    double end = now_s() + seconds;
    while (now_s() < end && (until == 0 || total < until)) {
        int ready = epoll_wait(crowd->epoll, events, MEMBER_EVENTS, spin ? 0 : 20);
        int64_t before = total;
        for (int i = 0; i < ready; i++) {
            int64_t messages = receive(crowd, &crowd->each[events[i].data.u32]);
            if (messages < 0)
                return -1;
            total += messages;
        }
        if (total > before)
            crowd->last_at = now_s();
    }
    crowd->messages += total;
    return total;
}

/* Acknowledges the received messages, as a client of landline does within 100 ms. */
int crowd_acknowledge(struct crowd *crowd)
{
    uint8_t out[13];
    if (crowd->format != LANDLINE)
        return 0;
    put_big_endian(out, 9, 4);
    out[4] = LANDLINE_ACK;
    for (int i = 0; i < crowd->members; i++) {
        struct member *m = &crowd->each[i];
        if (m->sequence == m->told)
            continue;
        put_big_endian(out + 5, m->sequence, 8);
        if (send_all(m, out, sizeof out) < 0)
            return -1;
        m->told = m->sequence;
    }
    return 0;
}

double crowd_last_at(const struct crowd *crowd)
{
    return crowd->last_at;
}

int64_t crowd_pings(const struct crowd *crowd)
{
    return crowd->pings;
}

/* The lowest and the highest number of messages of one connection. */
void crowd_spread(const struct crowd *crowd, int64_t *fewest, int64_t *most)
{
    *fewest = INT64_MAX;
    *most = 0;
    for (int i = 0; i < crowd->members; i++) {
        int64_t messages = crowd->each[i].messages;
        if (messages < *fewest)
            *fewest = messages;
        if (messages > *most)
            *most = messages;
    }
}

void crowd_free(struct crowd *crowd)
{
    close(crowd->epoll);
    free(crowd->each);
    free(crowd);
}
