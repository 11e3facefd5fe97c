/* Complete frames in the bytes of a server, for every protocol the load speaks (clients.py has the same numbers). */
#ifndef FRAMES_H
#define FRAMES_H

#include <stdint.h>
#include <string.h>
#include <time.h>

enum { PREFIXED = 0, LANDLINE = 1, WEBSOCKET = 2, SOCKETIO = 3, NATS = 4, MQTT = 5, LANDLINE_WS = 6 };
enum { LANDLINE_DATA = 16, LANDLINE_ACK = 17, LANDLINE_PING = 18, LANDLINE_PONG = 19 };
enum { FRAME_BYTES_MAX = 100 * 1024 };
enum frame_kind { OTHER, MESSAGE, PING };

static inline double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline int64_t nats_frame(const uint8_t *data, int64_t size, enum frame_kind *kind)
{
    const uint8_t *end = memchr(data, '\n', (size_t)size);
    if (!end)
        return size < FRAME_BYTES_MAX ? 0 : -1;
    int64_t line = end - data + 1;
    if (line > 4 && !memcmp(data, "MSG ", 4)) {
        /* MSG <subject> <subscription> <size>\r\n<payload>\r\n */
        const uint8_t *from = end;
        while (from > data && from[-1] != ' ')
            from--;
        int64_t payload = 0;
        for (; *from >= '0' && *from <= '9'; from++)
            payload = payload * 10 + (*from - '0');
        if (payload > FRAME_BYTES_MAX)
            return -1;
        *kind = MESSAGE;
        return size < line + payload + 2 ? 0 : line + payload + 2;
    }
    if (line >= 4 && !memcmp(data, "-ERR", 4))
        return -1;
    if (line >= 4 && !memcmp(data, "PING", 4))
        *kind = PING;
    return line;
}

static inline int64_t websocket_frame(int format, const uint8_t *data, int64_t size, enum frame_kind *kind)
{
    if (size < 2)
        return 0;
    int64_t header = 2, length = data[1];
    if (length == 126) {
        if (size < 4)
            return 0;
        header = 4;
        length = (int64_t)data[2] << 8 | data[3];
    } else if (length > 126) {
        return -1;
    }
    if (size < header + length)
        return 0;
    const uint8_t *payload = data + header;
    if (format == WEBSOCKET)
        *kind = data[0] == 0x82 ? MESSAGE : data[0] == 0x89 ? PING : OTHER;
    else if (data[0] == 0x81 && length >= 2 && payload[0] == '4' && payload[1] == '2')
        *kind = MESSAGE;
    else if (data[0] == 0x81 && length == 1 && payload[0] == '2')
        *kind = PING;
    return header + length;
}

/* What stands before the frames of landline in a message of a WebSocket: the header of the message, as a frame of its
 * own, or a whole control frame. landline writes whole frames, so that no message ends within one; and theirs begin with
 * a zero, being shorter than 2^24. */
static inline int64_t websocket_prefix(const uint8_t *data, int64_t size)
{
    if (size < 2)
        return 0;
    int64_t header = data[1] < 126 ? 2 : data[1] == 126 ? 4 : 10;
    int64_t length = data[0] == 0x82 ? header : header + data[1];
    return size < length ? 0 : length;
}

static inline int64_t mqtt_frame(const uint8_t *data, int64_t size, enum frame_kind *kind)
{
    int64_t length = 0;
    for (int i = 1; i <= 4; i++) {
        if (i >= size)
            return 0;
        length |= (int64_t)(data[i] & 0x7f) << (7 * (i - 1));
        if (!(data[i] & 0x80)) {
            if (data[0] >> 4 == 3)
                *kind = MESSAGE;
            return size < 1 + i + length ? 0 : 1 + i + length;
        }
    }
    return -1;
}

/* The size of the first frame: 0 while it is incomplete, -1 for invalid data. */
static inline int64_t next_frame(int format, const uint8_t *data, int64_t size, enum frame_kind *kind)
{
    *kind = OTHER;
    if (size == 0)
        return 0;
    if (format == WEBSOCKET || format == SOCKETIO)
        return websocket_frame(format, data, size, kind);
    if (format == NATS)
        return nats_frame(data, size, kind);
    if (format == MQTT)
        return mqtt_frame(data, size, kind);
    if (format == LANDLINE_WS && data[0] & 0x80)
        return websocket_prefix(data, size);
    if (size < 5)
        return 0;
    int64_t length = (int64_t)data[0] << 24 | data[1] << 16 | data[2] << 8 | data[3];
    if (length > FRAME_BYTES_MAX)
        return -1;
    if (size < 4 + length)
        return 0;
    if (format == PREFIXED || data[4] == LANDLINE_DATA)
        *kind = MESSAGE;
    else if (data[4] == LANDLINE_PING)
        *kind = PING;
    return 4 + length;
}

#endif
