/* The counter in C: adds args.by (default 1) to state.count, emits "incremented", returns the new count.
 *
 * An instance lives for one job, so nothing is ever freed. scripts/build-examples says how it is compiled.
 */
#include <stdlib.h>
#include <string.h>

#include "panels.h"

enum { MAX_DIGITS = 16, MAX_TEXT = 20 };

/* The host asks for room for the arguments before it calls a handler. */
PANELS_EXPORT("alloc")
void *alloc(size_t size) {
    void *const room = malloc(size);
    if (!room) __builtin_trap(); /* else the host would write to address 0 */
    return room;
}

/* The whole number that a text begins with, 0 where it begins with none, and how many characters that is. (Debian has no
 * compiler runtime for wasm32, which strtol wants.) */
static int64_t parse(const char *text, size_t length, size_t *used) {
    const int negative = length > 0 && text[0] == '-';
    uint64_t number = 0;
    size_t at = negative;
    for (; at < length && text[at] >= '0' && text[at] <= '9'; at++) number = number * 10 + (uint64_t)(text[at] - '0');
    *used = at;
    return (int64_t)(negative ? 0 - number : number);
}

/* The number after "by": in {"by":2}, or 1. A handler that takes more than this wants a JSON library. */
static int64_t by(const char *args, size_t length) {
    static const char name[] = "\"by\":";
    const size_t size = sizeof name - 1;
    for (size_t at = 0; at + size < length; at++)
        if (memcmp(args + at, name, size) == 0) {
            size_t used;
            for (at += size; at < length && args[at] == ' ';) at++;
            return parse(args + at, length - at, &used);
        }
    return 1;
}

/* The decimal digits of a number, at the end of `text`; how many. */
static size_t format(int64_t number, char text[MAX_TEXT]) {
    uint64_t rest = number < 0 ? 0 - (uint64_t)number : (uint64_t)number;
    size_t at = MAX_TEXT;
    do text[--at] = (char)('0' + rest % 10);
    while (rest /= 10);
    if (number < 0) text[--at] = '-';
    return MAX_TEXT - at;
}

static int32_t refuse(const char *why) {
    panels_fail(why, strlen(why));
    return 0;
}

/* The handler. */
PANELS_EXPORT("handle")
int32_t handle(const char *args, size_t length) {
    char old[MAX_DIGITS];
    const int32_t got = panels_state_get("count", 5, old, MAX_DIGITS);
    int64_t number = 0;
    if (got != PANELS_ABSENT) {
        /* a number below zero is an error */
        size_t used = 0;
        if (got >= 0 && got <= MAX_DIGITS) number = parse(old, (size_t)got, &used);
        if (got < 0 || used != (size_t)got) return refuse("expected count to be a whole number of at most 16 characters");
    }

    char text[MAX_TEXT];
    const size_t size = format((int64_t)((uint64_t)number + (uint64_t)by(args, length)), text);
    const char *const count = text + MAX_TEXT - size;
    if (panels_state_set("count", 5, count, size) < 0) return refuse("expected to be allowed to set count");
    panels_emit("incremented", 11, count, size);
    panels_result(count, size);
    return 0;
}
