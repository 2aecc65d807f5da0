/* panels ABI v1 for C: what a handler may ask of its host. docs/abi.md describes every function and its bounds.
 *
 * Texts are UTF-8 and values are JSON; both cross as a pointer and a number of bytes, without a terminating NUL. Everything
 * that a handler does becomes visible at once when it returns 0, and not at all when it fails.
 */
#ifndef PANELS_H
#define PANELS_H

#include <stddef.h>
#include <stdint.h>

/* What functions return instead of a number that is not negative. */
enum {
    PANELS_ABSENT = -1,  /* there is no such key */
    PANELS_DENIED = -2,  /* the tool's capabilities do not allow it */
    PANELS_INVALID = -4, /* a name of another length, not UTF-8 or not JSON */
};

/* Put before a function that the host calls. */
#define PANELS_EXPORT(name) __attribute__((export_name(name)))
#define PANELS_IMPORT(name) __attribute__((import_module("panels"), import_name(name)))

/* Copies the JSON of a key to `value` if it fits into `room`; its length, whether it fitted or not. */
PANELS_IMPORT("state_get")
int32_t panels_state_get(const char *key, size_t key_length, char *value, size_t room);

/* Sets a key, of at most 256 characters, to a JSON value; 0. */
PANELS_IMPORT("state_set")
int32_t panels_state_set(const char *key, size_t key_length, const char *value, size_t length);

/* Deletes a key; 0, or PANELS_ABSENT. */
PANELS_IMPORT("state_delete")
int32_t panels_state_delete(const char *key, size_t key_length);

/* 1 if there is such a key, else 0. */
PANELS_IMPORT("state_has")
int32_t panels_state_has(const char *key, size_t key_length);

/* Copies a JSON array of all keys that may be read to `keys` if it fits into `room`; its length. */
PANELS_IMPORT("state_keys")
int32_t panels_state_keys(char *keys, size_t room);

/* Emits an event with a JSON payload; 0. Names have 1 to 256 characters, those of views and commands too. */
PANELS_IMPORT("emit")
int32_t panels_emit(const char *name, size_t name_length, const char *payload, size_t length);

/* The same for the clients of one subject alone, which has 1 to 256 characters; 0. */
PANELS_IMPORT("emit_to")
int32_t panels_emit_to(const char *name, size_t name_length, const char *payload, size_t length, const char *subject,
                       size_t subject_length);

/* Sends a command with JSON parameters to a view; 0. */
PANELS_IMPORT("view")
int32_t panels_view(const char *view, size_t view_length, const char *command, size_t command_length,
                    const char *params, size_t length);

/* Sets the return value, which is JSON; the last one counts. */
PANELS_IMPORT("result")
void panels_result(const char *value, size_t length);

/* Says why the handler fails: nothing that it did counts once it returns, and the client gets the text. */
PANELS_IMPORT("fail")
void panels_fail(const char *message, size_t length);

/* What a failure says to programs: a code, a letter and then up to 63 of A-Z a-z 0-9 . _ : -, and details, which are
   JSON; a length of 0 for none. The last one counts. 0, or PANELS_INVALID. */
PANELS_IMPORT("fail_code")
int32_t panels_fail_code(const char *code, size_t code_length, const char *details, size_t length);

/* Writes a line to the gateway's log: level 0 debug, 1 info, 2 warning, 3 error. */
PANELS_IMPORT("log")
void panels_log(int32_t level, const char *text, size_t length);

/* The job's time in milliseconds since 1970: the same for the whole job. */
PANELS_IMPORT("now_ms")
double panels_now_ms(void);

/* Fills `bytes`, at most 65,536, from the job's seed: the same job sees the same ones. */
PANELS_IMPORT("random")
void panels_random(void *bytes, size_t length);

/* Calls a method of an extension. No extension is registered: PANELS_ABSENT. */
PANELS_IMPORT("ext_call")
int64_t panels_ext_call(const char *name, size_t name_length, const char *method, size_t method_length,
                        const char *args, size_t length);

#endif
