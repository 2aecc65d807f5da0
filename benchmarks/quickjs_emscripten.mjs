// The rival in Node: quickjs-emscripten, a fresh context for every call. benchmarks/rival_quickjs.py starts it.
//
// argv: the package's entry, and the text of a script whose value is a function from JSON to JSON. Each line of stdin is
// [mode, count, input]; for each, that many calls are made and the last answer is written as one line. The state that a
// call leaves is the next one's. Modes: "context" (a fresh context in one runtime), "runtime" (a fresh runtime, too).

import { createInterface } from "node:readline";

const { getQuickJS } = (await import(process.argv[2])).default;
const script = process.argv[3];
const QuickJS = await getQuickJS();
const shared = QuickJS.newRuntime();

function once(mode, input) {
  const context = mode === "context" ? shared.newContext() : QuickJS.newContext();
  try {
    const result = context.evalCode(`${script}(${JSON.stringify(input)})`);
    const handle = context.unwrapResult(result);
    const answer = context.getString(handle);
    handle.dispose();
    return answer;
  } finally {
    context.dispose();
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  let [mode, count, input] = JSON.parse(line);
  let answer;
  for (let n = 0; n < count; n++) {
    answer = once(mode, JSON.stringify(input));
    input = { args: input.args, state: JSON.parse(answer).state };
  }
  process.stdout.write(answer + "\n");
}
