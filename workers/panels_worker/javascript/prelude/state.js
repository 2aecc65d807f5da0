// key → { value, text, written }: text is the JSON it was read from, undefined when there was none
let entries = create(null);
let order = [];
let asked = false;

function wellFormed(key) {
  if (!isWellFormed(key)) throw new InvalidResult(`$state[${stringify(key)}]`, "a key with a lone surrogate");
  return key;
}

function entry(key) {
  let found = entries[key];
  if (found === undefined) {
    wellFormed(key);
    const text = hostGet(key);
    if (text === null) throw new PermissionDenied(`expected the capability state:read:${key}`);
    found = { value: text === undefined ? undefined : parse(text), text, written: false };
    entries[key] = found;
    order[order.length] = key;
  }
  return found;
}

function check(key) {
  if (typeof key !== "string") {
    throw new $TypeError(`expected a state key that is a string, got ${typeof key}`);
  }
  return key;
}

function write(key, value) {
  let found = entries[key];
  if (found === undefined) {
    wellFormed(key);
    // what was there is not needed: it is neither read nor parsed
    found = entries[key] = { value: undefined, text: undefined, written: true };
    order[order.length] = key;
  }
  found.value = value;
  found.written = true;
}

function allKeys() {
  asked = true;
  const keys = parse(hostKeys());
  const known = new $Set(keys);
  const result = [];
  for (let index = 0; index < keys.length; index++) {
    const found = entries[keys[index]];
    if (found === undefined || found.value !== undefined) result[result.length] = keys[index];
  }
  for (let index = 0; index < order.length; index++) {
    const key = order[index];
    if (!setHas(known, key) && entries[key].value !== undefined) result[result.length] = key;
  }
  return result;
}

function has(key) {
  const found = entries[key];
  if (found !== undefined) return found.value !== undefined;
  asked = true;
  const answer = hostHas(wellFormed(key));
  if (answer === null) throw new PermissionDenied(`expected the capability state:read:${key}`);
  return answer;
}

const methods = freeze({
  __proto__: null,
  get(key, otherwise) {
    const value = entry(check(key)).value;
    return value === undefined ? otherwise : value;
  },
  set(key, value) {
    write(check(key), value);
    return value;
  },
  delete(key) {
    const existed = has(check(key));
    write(key, undefined);
    return existed;
  },
  has: (key) => has(check(key)),
  keys: () => allKeys(),
  update(key, change) {
    if (typeof change !== "function") throw new $TypeError("$state.update: expected a function");
    const value = change(entry(check(key)).value);
    write(key, value);
    return value;
  },
});

const $state = new $Proxy(create(null), {
  get(_, key) {
    if (typeof key !== "string") return undefined;
    return methods[key] ?? entry(key).value;
  },
  set(_, key, value) {
    write(check(key), value);
    return true;
  },
  has: (_, key) => typeof key === "string" && has(key),
  deleteProperty(_, key) {
    if (typeof key === "string") write(key, undefined);
    return true;
  },
  ownKeys: () => allKeys(),
  getOwnPropertyDescriptor(_, key) {
    if (typeof key !== "string" || !has(key)) return undefined;
    return { value: entry(key).value, writable: true, enumerable: true, configurable: true };
  },
  defineProperty(_, key, descriptor) {
    if (!("value" in descriptor)) throw new $TypeError("$state: expected a value, got a getter or setter");
    write(check(key), descriptor.value);
    return true;
  },
  getPrototypeOf: () => null,
  setPrototypeOf: () => false,
  preventExtensions: () => false,
});

// What `$state = next` does: the top-level keys of next are those of the state from now on.
function replaceState(next) {
  if (next === $state) return;
  if (typeof next !== "object" || next === null || isArray(next)) {
    const given = isArray(next) ? "an array" : show(next);
    throw new $TypeError(`expected an object as the new $state, got ${given}`);
  }
  const keys = objectKeys(next), values = [], before = allKeys();
  const kept = create(null);
  for (let index = 0; index < keys.length; index++) {
    values[index] = next[keys[index]];
    kept[keys[index]] = true;
  }
  for (let index = 0; index < before.length; index++) {
    if (!kept[before[index]]) write(before[index], undefined);
  }
  for (let index = 0; index < keys.length; index++) write(keys[index], values[index]);
}

function encodeAt(key, value) {
  try {
    return encode(value, "");
  } catch (error) {
    if (!(error instanceof InvalidResult)) throw error;
    const path = /^[A-Za-z_$][\w$]*$/.test(key) ? `$state.${key}` : `$state[${stringify(key)}]`;
    error.message = path + error.message;
    error.path = path + error.path;
    throw error;
  }
}

// One [key, text] for each key that differs from what it was, [key] for one that is gone.
function mutations() {
  let text = "";
  for (let index = 0; index < order.length; index++) {
    const key = order[index];
    const { value, text: before, written } = entries[key];
    if (value === undefined) {
      if (written) text += `${text && ","}[${stringify(key)}]`;
      continue;
    }
    if (!written || before !== undefined) {
      if (before !== undefined && (typeof value !== "object" || value === null)) {
        if (value === parse(before)) continue;
      } else if (before !== undefined) {
        // cheap and native first: most values that were read have not changed
        let now;
        try {
          now = stringify(value);
        } catch {
          now = undefined; // a cycle or a BigInt: encode says where
        }
        if (now === before || (now !== undefined && now === stringify(parse(before)))) continue;
      }
    }
    text += `${text && ","}[${stringify(key)},${encodeAt(key, value)}]`;
  }
  return text;
}
