// What a handler logs. $log writes its values one after the other; console has format strings, groups,
// counts and timers.
const show = (value) => {
  if (typeof value === "string") return value;
  if (value instanceof $Error) return `${errorToString(value)}\n${value.stack ?? ""}`;
  try {
    const text = typeof value === "object" && value !== null ? stringify(value) : undefined;
    return text === undefined ? $String(value) : text;
  } catch {
    return "[a value that cannot be shown]";
  }
};
const DEBUG = "0", INFO = "1", WARN = "2", ERROR = "3";
const record = (level, text) => hostLog(level, toWellFormed(text));
const logger = (level) => (...values) => {
  for (let index = 0; index < values.length; index++) values[index] = show(values[index]);
  record(level, join(values, " "));
};
const $log = freeze({
  __proto__: null, debug: logger(DEBUG), info: logger(INFO), warn: logger(WARN), error: logger(ERROR),
});

// One value in the place of a directive of a format string; undefined where the directive is not known.
function directive(letter, value) {
  switch (letter) {
    case "s":
      return show(value);
    case "d":
      if (typeof value === "bigint") return `${$String(value)}n`;
      return typeof value === "object" ? "NaN" : $String(+value);
    case "i":
      return typeof value === "bigint" ? `${$String(value)}n` : $String(parseInteger(value));
    case "f":
      return typeof value === "symbol" ? "NaN" : $String(parseNumber(value));
    case "j":
    case "o":
    case "O":
      return show(value);
    case "c":
      return "";
  }
  return undefined;
}

// The text of a call of console, whose first value may be a format string.
function formatted(values) {
  const first = values[0];
  let text = "", used = 0;
  if (typeof first === "string" && values.length > 1) {
    used = 1;
    for (let index = 0; index < first.length; index++) {
      const letter = first[index] === "%" ? first[index + 1] : undefined;
      if (letter === "%") {
        text += "%";
        index++;
        continue;
      }
      const isDirective = letter !== undefined && used < values.length;
      const shown = isDirective ? directive(letter, values[used]) : undefined;
      if (shown === undefined) {
        text += first[index];
        continue;
      }
      text += shown;
      used++;
      index++;
    }
  }
  for (let index = used; index < values.length; index++) text += `${index ? " " : ""}${show(values[index])}`;
  return text;
}

let indent = "", counts = create(null), timers = create(null);
const print = (level, text) => {
  record(level, indent ? indent + replaceAll(text, "\n", `\n${indent}`) : text);
};
const printer = (level) => (...values) => print(level, formatted(values));

// Rows of a table as text: one line for each, columns padded with spaces. Anything but an object is shown
// as it is.
function table(data) {
  if (typeof data !== "object" || data === null) return show(data);
  const rows = objectKeys(data), columns = ["(index)"], lines = [];
  for (let at = 0; at < rows.length; at++) {
    const row = data[rows[at]];
    const names = typeof row === "object" && row !== null ? objectKeys(row) : ["Values"];
    for (let index = 0; index < names.length; index++) {
      if (!arrayIncludes(columns, names[index])) columns[columns.length] = names[index];
    }
  }
  lines[0] = columns;
  for (let at = 0; at < rows.length; at++) {
    const row = data[rows[at]], isRow = typeof row === "object" && row !== null;
    const cells = [rows[at]];
    for (let index = 1; index < columns.length; index++) {
      const cell = isRow ? row[columns[index]] : columns[index] === "Values" ? row : undefined;
      cells[index] = cell === undefined ? "" : show(cell);
    }
    lines[at + 1] = cells;
  }
  for (let index = 0; index < columns.length; index++) {
    let width = 0;
    for (let at = 0; at < lines.length; at++) {
      if (lines[at][index].length > width) width = lines[at][index].length;
    }
    for (let at = 0; at < lines.length; at++) lines[at][index] = padEnd(lines[at][index], width);
  }
  for (let at = 0; at < lines.length; at++) lines[at] = trimEnd(join(lines[at], "  "));
  return join(lines, "\n");
}

const console = {
  debug: printer(DEBUG),
  log: printer(INFO),
  info: printer(INFO),
  warn: printer(WARN),
  error: printer(ERROR),
  trace: (...values) => print(DEBUG, values.length ? `Trace: ${formatted(values)}` : "Trace"),
  dir: (value) => print(INFO, show(value)),
  dirxml: printer(INFO),
  assert(condition, ...values) {
    if (condition) return;
    const text = formatted(values);
    print(ERROR, text ? `Assertion failed: ${text}` : "Assertion failed");
  },
  group(...values) {
    if (values.length) print(INFO, formatted(values));
    indent += "  ";
  },
  groupCollapsed: (...values) => console.group(...values),
  groupEnd() {
    indent = substring(indent, 2);
  },
  count(label = "default") {
    const name = $String(label);
    counts[name] = (counts[name] ?? 0) + 1;
    print(INFO, `${name}: ${counts[name]}`);
  },
  countReset(label = "default") {
    delete counts[$String(label)];
  },
  // the job's clock stands still, so that every timer shows nothing
  time(label = "default") {
    timers[$String(label)] = true;
  },
  timeLog(label = "default", ...values) {
    const name = $String(label);
    if (timers[name]) print(INFO, `${name}: 0ms${values.length ? ` ${formatted(values)}` : ""}`);
    else print(WARN, `Timer '${name}' does not exist`);
  },
  timeEnd(label = "default") {
    console.timeLog(label);
    delete timers[$String(label)];
  },
  timeStamp() {},
  table: (data) => print(INFO, table(data)),
  clear() {},
};
