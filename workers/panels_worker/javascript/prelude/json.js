// Where the walk is, as keys from the root: turned into words only when something is wrong.
let trail = [], open = [];

function invalid(origin, depth, problem) {
  let path = origin;
  for (let index = 0; index < depth; index++) {
    const key = trail[index];
    if (typeof key === "number") path += `[${key}]`;
    else path += /^[A-Za-z_$][\w$]*$/.test(key) ? `.${key}` : `[${stringify(key)}]`;
  }
  return new InvalidResult(path, problem);
}

// The JSON text of a value, or InvalidResult with the path of what JSON cannot hold. Like JSON.stringify it
// honours toJSON and leaves out properties that are undefined; unlike it, it never turns a value into null
// silently.
function encode(value, origin) {
  switch (typeof value) {
    case "number":
      if (numberIsFinite(value)) return value === 0 ? "0" : $String(value);
      break;
    case "string":
      if (isWellFormed(value)) return stringify(value);
      break;
    case "boolean":
      return value ? "true" : "false";
    case "object":
      if (value === null) return "null";
  }
  validate(value, origin, 0);
  return stringify(value);
}

function validate(value, origin, depth) {
  switch (typeof value) {
    case "string":
      if (!isWellFormed(value)) throw invalid(origin, depth, "a string with a lone surrogate");
      return;
    case "number":
      if (!numberIsFinite(value)) throw invalid(origin, depth, $String(value));
      return;
    case "boolean":
      return;
    case "undefined":
      throw invalid(origin, depth, "undefined");
    case "bigint":
      throw invalid(origin, depth, "a BigInt; convert it by Number() or String()");
    case "symbol":
      throw invalid(origin, depth, "a symbol");
    case "function":
      throw invalid(origin, depth, "a function");
  }
  if (value === null) return;
  const convert = value.toJSON;
  if (typeof convert === "function") {
    const converted = apply(convert, value, [""]);
    if (converted === null && value instanceof $Date) throw invalid(origin, depth, "an invalid Date");
    if (converted !== value) return validate(converted, origin, depth);
  }
  if (depth >= MAX_DEPTH) throw invalid(origin, depth, `nesting deeper than ${MAX_DEPTH}`);
  for (let index = 0; index < depth; index++) {
    if (open[index] === value) throw invalid(origin, depth, "a reference to itself");
  }
  open[depth] = value;
  if (isArray(value)) {
    const length = value.length;
    for (let index = 0; index < length; index++) {
      const item = value[index];
      if (typeof item === "number" && numberIsFinite(item)) continue;
      trail[depth] = index;
      validate(item, origin, depth + 1);
    }
    return;
  }
  const odd = oddity(value);
  if (odd) throw invalid(origin, depth, odd);
  const keys = objectKeys(value);
  for (let index = 0; index < keys.length; index++) {
    const key = keys[index];
    const item = value[key];
    if (item === undefined) continue;
    trail[depth] = key;
    if (!isWellFormed(key)) throw invalid(origin, depth, "a key with a lone surrogate");
    validate(item, origin, depth + 1);
  }
}

function oddity(value) {
  const prototype = getPrototypeOf(value);
  if (prototype === objectPrototype || prototype === null) return "";
  if (value instanceof $Map) return "a Map; use Object.fromEntries()";
  if (value instanceof $Set) return "a Set; spread it into an array";
  if (value instanceof $Promise) return "a promise; await it";
  if (value instanceof $RegExp) return "a regular expression";
  if (value instanceof $WeakMap || value instanceof $WeakSet || value instanceof $WeakRef) {
    return "a weak collection";
  }
  if (value instanceof $ArrayBuffer || value instanceof $DataView) return "binary data; use Array.from()";
  if (typedArrayTag(value) !== undefined) return "a typed array; use Array.from()";
  // JSON.stringify unwraps these
  if (value instanceof $Number) return numberIsFinite(+value) ? "" : $String(+value);
  if (value instanceof $String) return isWellFormed($String(value)) ? "" : "a string with a lone surrogate";
  if (value instanceof $BigInt) return "a BigInt; convert it by Number() or String()";
  if (value instanceof $Symbol) return "a symbol";
  return "";
}
