// Drives the built client of clients/typescript: orders as JSON lines on stdin, reports as JSON lines on stdout.
//
//     node benchmarks/client_driver.mjs SPEED
//
//     {"do": "connect", "client", "url", "panel"}              {"client", "status" | "notice" | "event"}
//     {"do": "call", "client", "id", "tool", "args"}           {"id", "value"} | {"id", "code", "ran", "message"}
//     {"do": "state", "client", "id"}                          {"id", "value"}
//     {"do": "token", "id", "token"}                           {"id", "ask": true}: a client wants a token
//
// All that waits in the client waits SPEED times shorter, its back-off and its watchdog too: the clocks that it
// reads run so much faster, and the package is the one that is published. The end of stdin closes the clients.
import { createInterface } from "node:readline";

const speed = Number(process.argv[2] ?? 1);
const { setTimeout: after } = globalThis;
const [monotonic, wall] = [performance.now.bind(performance), Date.now];
const began = wall();
performance.now = () => monotonic() * speed;
Date.now = () => began + (wall() - began) * speed;
globalThis.setTimeout = (callback, ms, ...rest) => after(callback, ms / speed, ...rest);

const { connect } = await import(new URL("../clients/typescript/dist/node.js", import.meta.url).href);
const clients = new Map();
const asked = new Map();
let lastAsk = 0;

const report = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

function token() {
  const id = `token ${++lastAsk}`;
  report({ id, ask: true });
  return new Promise((resolve) => asked.set(id, resolve));
}

function order(line) {
  const { client, id } = line;
  const panel = clients.get(client);
  switch (line.do) {
    case "connect": {
      const made = connect(line.url, { panel: line.panel, token });
      clients.set(client, made);
      made.on("*", ({ name, payload, seq }) => report({ client, event: { name, payload, seq } }));
      made.onNotice((notice) => report({ client, notice }));
      made.onStatus((status) => report({ client, status, reason: made.reason }));
      return;
    }
    case "call":
      panel.call(line.tool, line.args).then(
        ({ value }) => report({ id, value }),
        ({ code, ran, message }) => report({ id, code, ran, message }),
      );
      return;
    case "state":
      return report({ id, value: panel.state });
    case "token":
      asked.get(id)?.(line.token);
      asked.delete(id);
      return;
  }
}

for await (const line of createInterface({ input: process.stdin })) order(JSON.parse(line));
for (const panel of clients.values()) panel.close();
