// Everything used while a handler runs is taken now, before it can be tampered with.
const { parse, stringify } = JSON;
const { apply, construct, ownKeys, getPrototypeOf, defineProperty } = Reflect;
const { create, freeze, hasOwn, keys: objectKeys, prototype: objectPrototype } = Object;
const { isArray, prototype: arrayPrototype } = Array;
const { isFinite: numberIsFinite } = Number;
const $Error = Error, $TypeError = TypeError, $Promise = Promise, $Proxy = Proxy, $String = String;
const $Map = Map, $Set = Set, $Date = Date, $BigInt = BigInt;
const $SyntaxError = SyntaxError, $EvalError = EvalError;
const $Number = Number, $Symbol = Symbol, $Boolean = Boolean, $Object = Object, $Array = Array;
const $RangeError = RangeError, $Uint8Array = Uint8Array, $WeakRef = WeakRef;
const { parseInt: parseInteger, parseFloat: parseNumber, encodeURIComponent } = globalThis;
const { fromCodePoint } = String, { isView } = ArrayBuffer;
const $ArrayBuffer = ArrayBuffer, $DataView = DataView, $RegExp = RegExp;
const $WeakMap = WeakMap, $WeakSet = WeakSet;
const { bind, call } = Function.prototype;
const uncurry = (method) => apply(bind, call, [method]);
const then = uncurry(Promise.prototype.then);
const isWellFormed = uncurry(String.prototype.isWellFormed);
const toWellFormed = uncurry(String.prototype.toWellFormed);
const setHas = uncurry(Set.prototype.has);
const replaceAll = uncurry(String.prototype.replaceAll), substring = uncurry(String.prototype.substring);
const padEnd = uncurry(String.prototype.padEnd), padStart = uncurry(String.prototype.padStart);
const trim = uncurry(String.prototype.trim), trimEnd = uncurry(String.prototype.trimEnd);
const toLowerCase = uncurry(String.prototype.toLowerCase), charCodeAt = uncurry(String.prototype.charCodeAt);
const numberToString = uncurry(Number.prototype.toString);
const mapGet = uncurry(Map.prototype.get), mapSet = uncurry(Map.prototype.set);
const mapDelete = uncurry(Map.prototype.delete);
const mapSize = uncurry(Object.getOwnPropertyDescriptor(Map.prototype, "size").get);
const rejectedPromise = uncurry(Promise.reject);
const join = uncurry(arrayPrototype.join), arrayIncludes = uncurry(arrayPrototype.includes);
const errorToString = uncurry(Error.prototype.toString);
const typedArrayTag = uncurry(
  Object.getOwnPropertyDescriptor(getPrototypeOf(Uint8Array.prototype), Symbol.toStringTag).get,
);
const hostGet = globalThis.h_state_get, hostHas = globalThis.h_state_has;
const hostKeys = globalThis.h_state_keys, hostLog = globalThis.h_log;
const hostScope = globalThis.h_scope, hostSeed = globalThis.h_seed, hostNow = globalThis.h_now;
const hostCall = globalThis.h_ext_call;
for (const name of ownKeys(globalThis)) {
  if (typeof name === "string" && name.startsWith("h_")) delete globalThis[name];
}

const MAX_DEPTH = 64;
