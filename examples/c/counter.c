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
void *alloc(size_t size) { return malloc(size); }

/* The decimal number that a text begins with. (Debian has no compiler runtime for wasm32, which strtol wants.) */
static int64_t parse(const char *text, size_t length) {
    const int negative = length > 0 && text[0] == '-';
    uint64_t number = 0;
    for (size_t at = negative; at < length && text[at] >= '0' && text[at] <= '9'; at++)
        number = number * 10 + (uint64_t)(text[at] - '0');
    return (int64_t)(negative ? 0 - number : number);
}

/* The number after "by": in {"by":2}, or 1. A handler that takes more than this wants a JSON library. */
static int64_t by(const char *args, size_t length) {
    static const char name[] = "\"by\":";
    const size_t size = sizeof name - 1;
    for (size_t at = 0; at + size < length; at++)
        if (memcmp(args + at, name, size) == 0) {
            for (at += size; at < length && args[at] == ' ';) at++;
            return parse(args + at, length - at);
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

/* The handler. */
PANELS_EXPORT("handle")
int32_t handle(const char *args, size_t length) {
    char old[MAX_DIGITS];
    const int32_t got = panels_state_get("count", 5, old, MAX_DIGITS);
    if (got > MAX_DIGITS) {
        static const char why[] = "expected a count of at most 16 digits";
        panels_fail(why, sizeof why - 1);
        return 0;
    }

    char text[MAX_TEXT];
    const size_t size = format((int64_t)((uint64_t)parse(old, got < 0 ? 0 : (size_t)got) + (uint64_t)by(args, length)), text);
    const char *const count = text + MAX_TEXT - size;
    panels_state_set("count", 5, count, size);
    panels_emit("incremented", 11, count, size);
    panels_result(count, size);
    return 0;
}
