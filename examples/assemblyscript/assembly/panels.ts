// panels ABI v1 for AssemblyScript: what a handler may ask of its host. docs/abi.md describes every function and its bounds.
//
// Texts cross as UTF-8 and values as JSON. Everything that a handler does becomes visible at once when it returns 0, and not
// at all when it fails.

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
@external("panels", "emit")
declare function host_emit(name: usize, nameLength: usize, payload: usize, length: usize): i32;
// @ts-ignore: decorator
@external("panels", "result")
declare function host_result(value: usize, length: usize): void;
// @ts-ignore: decorator
@external("panels", "fail")
declare function host_fail(message: usize, length: usize): void;
// @ts-ignore: decorator
@external("panels", "log")
declare function host_log(level: i32, text: usize, length: usize): void;
// @ts-ignore: decorator
@external("panels", "now_ms")
export declare function nowMs(): f64;

const ROOM: i32 = 4096;

function utf8(text: string): ArrayBuffer {
  return String.UTF8.encode(text);
}

/** The JSON of a key, or null where there is none or it may not be read. */
export function get(key: string): string | null {
  const name = utf8(key);
  let room = ROOM;
  let value = new ArrayBuffer(room);
  let length = state_get(changetype<usize>(name), name.byteLength, changetype<usize>(value), room);
  if (length > room) {
    room = length;
    value = new ArrayBuffer(room);
    length = state_get(changetype<usize>(name), name.byteLength, changetype<usize>(value), room);
  }
  return length < 0 ? null : String.UTF8.decodeUnsafe(changetype<usize>(value), length);
}

/** Sets a key to a JSON value; false where that is not allowed, or not JSON. */
export function set(key: string, json: string): bool {
  const name = utf8(key), value = utf8(json);
  return state_set(changetype<usize>(name), name.byteLength, changetype<usize>(value), value.byteLength) == 0;
}

/** Deletes a key; false where there was none, or that is not allowed. */
export function remove(key: string): bool {
  const name = utf8(key);
  return state_delete(changetype<usize>(name), name.byteLength) == 0;
}

/** Emits an event with a JSON payload. */
export function emit(name: string, json: string): bool {
  const event = utf8(name), payload = utf8(json);
  return host_emit(changetype<usize>(event), event.byteLength, changetype<usize>(payload), payload.byteLength) == 0;
}

/** Sets the return value, which is JSON. */
export function result(json: string): void {
  const value = utf8(json);
  host_result(changetype<usize>(value), value.byteLength);
}

/** Says why the handler fails: nothing that it did counts then. */
export function fail(message: string): void {
  const text = utf8(message);
  host_fail(changetype<usize>(text), text.byteLength);
}

/** Writes a line to the gateway's log: level 0 debug, 1 info, 2 warning, 3 error. */
export function log(level: i32, message: string): void {
  const text = utf8(message);
  host_log(level, changetype<usize>(text), text.byteLength);
}

/** The arguments, from what the host passes to a handler. */
export function text(pointer: usize, length: usize): string {
  return String.UTF8.decodeUnsafe(pointer, length);
}
