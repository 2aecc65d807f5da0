// panels ABI v1 for AssemblyScript: what a handler may ask of its host. docs/abi.md describes every function and its bounds.
//
// Texts cross as UTF-8 and values as JSON. Everything that a handler does becomes visible at once when it returns 0, and not
// at all when it fails.

// -- the imports as they are -----------------------------------------------------------------------------

// @ts-ignore: decorator
@external("panels", "state_get")
declare function state_get(key: usize, keyLength: usize, value: usize, room: usize): i32;
// @ts-ignore: decorator
@external("panels", "state_set")
declare function state_set(key: usize, keyLength: usize, value: usize, length: usize): i32;
// @ts-ignore: decorator
@external("panels", "state_delete")
declare function state_delete(key: usize, keyLength: usize): i32;
// @ts-ignore: decorator
@external("panels", "state_has")
declare function state_has(key: usize, keyLength: usize): i32;
// @ts-ignore: decorator
@external("panels", "state_keys")
declare function state_keys(keys: usize, room: usize): i32;
// @ts-ignore: decorator
@external("panels", "emit")
declare function host_emit(name: usize, nameLength: usize, payload: usize, length: usize): i32;
// @ts-ignore: decorator
@external("panels", "emit_to")
declare function host_emit_to(name: usize, nameLength: usize, payload: usize, length: usize, subject: usize, subjectLength: usize): i32;
// @ts-ignore: decorator
@external("panels", "view")
declare function host_view(view: usize, viewLength: usize, command: usize, commandLength: usize, params: usize, length: usize): i32;
// @ts-ignore: decorator
@external("panels", "result")
declare function host_result(value: usize, length: usize): void;
// @ts-ignore: decorator
@external("panels", "fail")
declare function host_fail(message: usize, length: usize): void;
// @ts-ignore: decorator
@external("panels", "fail_code")
declare function host_fail_code(code: usize, codeLength: usize, details: usize, length: usize): i32;
// @ts-ignore: decorator
@external("panels", "log")
declare function host_log(level: i32, text: usize, length: usize): void;
// @ts-ignore: decorator
@external("panels", "now_ms")
declare function host_now_ms(): f64;
// @ts-ignore: decorator
@external("panels", "random")
declare function host_random(bytes: usize, count: usize): void;
// @ts-ignore: decorator
@external("panels", "ext_call")
declare function ext_call(name: usize, nameLength: usize, method: usize, methodLength: usize, args: usize, length: usize): i64;

// -- and with strings ------------------------------------------------------------------------------------

/** What functions return instead of a number that is not negative. */
export const ABSENT: i32 = -1;
export const DENIED: i32 = -2;
export const INVALID: i32 = -4;

const ROOM: i32 = 4096;

function utf8(text: string): ArrayBuffer {
  return String.UTF8.encode(text);
}

// @ts-ignore: decorator
@inline
function address(buffer: ArrayBuffer): usize {
  return changetype<usize>(buffer);
}

/** The arguments, from what the host passes to a handler. */
export function text(pointer: usize, length: usize): string {
  return String.UTF8.decodeUnsafe(pointer, length);
}

/** The JSON of a key; null where there is none, and empty, which no JSON is, where it may not be read. */
export function get(key: string): string | null {
  const name = utf8(key);
  let value = new ArrayBuffer(ROOM);
  let length = state_get(address(name), name.byteLength, address(value), ROOM);
  if (length > ROOM) {
    value = new ArrayBuffer(length);
    state_get(address(name), name.byteLength, address(value), length);
  }
  if (length == ABSENT) return null;
  return length < 0 ? "" : text(address(value), length);
}

/** Sets a key to a JSON value; false where that is not allowed, or not JSON. */
export function set(key: string, json: string): bool {
  const name = utf8(key), value = utf8(json);
  return state_set(address(name), name.byteLength, address(value), value.byteLength) == 0;
}

/** Deletes a key; false where there was none, or that is not allowed. */
export function remove(key: string): bool {
  const name = utf8(key);
  return state_delete(address(name), name.byteLength) == 0;
}

/** Whether there is such a key; false where it may not be read. */
export function has(key: string): bool {
  const name = utf8(key);
  return state_has(address(name), name.byteLength) == 1;
}

/** The keys that may be read, as a JSON array. */
export function keys(): string {
  let list = new ArrayBuffer(ROOM);
  const length = state_keys(address(list), ROOM);
  if (length > ROOM) {
    list = new ArrayBuffer(length);
    state_keys(address(list), length);
  }
  return text(address(list), length);
}

/** Emits an event with a JSON payload; false where that is not allowed, or not JSON. */
export function emit(name: string, json: string): bool {
  const event = utf8(name), payload = utf8(json);
  return host_emit(address(event), event.byteLength, address(payload), payload.byteLength) == 0;
}

/** The same for the clients of one subject alone. */
export function emitTo(subject: string, name: string, json: string): bool {
  const event = utf8(name), payload = utf8(json), who = utf8(subject);
  return host_emit_to(address(event), event.byteLength, address(payload), payload.byteLength, address(who), who.byteLength) == 0;
}

/** Sends a command with JSON parameters to a view; false where that is not allowed, or not JSON. */
export function view(id: string, command: string, json: string): bool {
  const name = utf8(id), verb = utf8(command), params = utf8(json);
  return host_view(address(name), name.byteLength, address(verb), verb.byteLength, address(params), params.byteLength) == 0;
}

/** Sets the return value, which is JSON; the last one counts. */
export function result(json: string): void {
  const value = utf8(json);
  host_result(address(value), value.byteLength);
}

/** Says why the handler fails: nothing that it did counts once it returns, and the client gets the text. */
export function fail(message: string): void {
  const why = utf8(message);
  host_fail(address(why), why.byteLength);
}

/**
 * What a failure says to programs: a code, a letter and then up to 63 of `A-Z a-z 0-9 . _ : -`, and details, which are
 * JSON; "" for none. The last one counts. Whether they are kept.
 */
export function failCode(code: string, details: string = ""): bool {
  const name = utf8(code), value = utf8(details);
  return host_fail_code(address(name), name.byteLength, address(value), value.byteLength) == 0;
}

/** Writes a line to the gateway's log: level 0 debug, 1 info, 2 warning, 3 error. */
export function log(level: i32, message: string): void {
  const line = utf8(message);
  host_log(level, address(line), line.byteLength);
}

/** The job's time in milliseconds since 1970: the same for the whole job. */
export function nowMs(): f64 {
  return host_now_ms();
}

/** Bytes, at most 65,536, from the job's seed: the same job sees the same ones. */
export function random(count: i32): ArrayBuffer {
  const bytes = new ArrayBuffer(count);
  host_random(address(bytes), count);
  return bytes;
}

/** Calls a method of an extension. No extension is registered: ABSENT, or DENIED. */
export function call(extension: string, method: string, json: string): i64 {
  const name = utf8(extension), verb = utf8(method), args = utf8(json);
  return ext_call(address(name), name.byteLength, address(verb), verb.byteLength, address(args), args.byteLength);
}
