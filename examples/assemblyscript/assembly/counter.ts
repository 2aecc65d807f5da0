// The counter in AssemblyScript: adds args.by (default 1) to state.count, emits "incremented", returns the new count.
//
// An instance lives for one job, so nothing is ever freed. scripts/build-examples says how it is compiled.

import { emit, fail, get, result, set, text } from "./panels";

const MAX_DIGITS = 16;

/** The host asks for room for the arguments before it calls a handler. */
export function alloc(size: usize): usize {
  return heap.alloc(size);
}

/** The number after "by": in {"by":2}, or 1. A handler that takes more than this wants a JSON library. */
function by(args: string): i64 {
  const at = args.indexOf('"by":');
  return at < 0 ? 1 : I64.parseInt(args.substring(at + 5), 10);
}

/** Whether all of a text is one whole number that is not too long. */
function isWhole(text: string): bool {
  if (text.length == 0 || text.length > MAX_DIGITS) return false;
  for (let at = text.startsWith("-") ? 1 : 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    if (code < 48 || code > 57) return false;
  }
  return true;
}

export function handle(args: usize, length: usize): i32 {
  const old = get("count");
  if (old !== null && !isWhole(old)) {
    fail("expected count to be a whole number of at most 16 characters");
    return 0;
  }
  const before: i64 = old === null ? 0 : I64.parseInt(old, 10);
  const count = (before + by(text(args, length))).toString();
  if (!set("count", count)) {
    fail("expected to be allowed to set count");
    return 0;
  }
  emit("incremented", count);
  result(count);
  return 0;
}
