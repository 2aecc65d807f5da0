// Follows a panel with the protocol's own client, and prints what it made of it. Environment: STREAM_URL, PANELS_TOKEN,
// LIVE (sse, long-poll), UNTIL (the value of key `n` that ends it), OFFSET, DB (follow with StreamDB).
import { stream } from "@durable-streams/client";
import { MaterializedState, createStateSchema, isChangeEvent } from "@durable-streams/state";
import { createStreamDB } from "@durable-streams/state/db";

const url = process.env.STREAM_URL;
const headers = { authorization: `Bearer ${process.env.PANELS_TOKEN}` };
const live = process.env.LIVE;
const until = Number(process.env.UNTIL);

function print(line) {
  process.stdout.write(JSON.stringify(line) + "\n");
}

async function follow() {
  const state = new MaterializedState();
  const events = [];
  let offset = process.env.OFFSET ?? "-1";
  let done = false;
  while (!done) {
    const response = await stream({ url, headers, live, offset, json: true });
    try {
      await new Promise((resolve, reject) => {
        // the client gives up a response that was cut off in the middle: whoever uses it goes on from the last offset
        response.closed.then(resolve, reject);
        response.subscribeJson(async (batch) => {
          for (const item of batch.items.filter(isChangeEvent)) {
            state.apply(item);
            if (item.type === "event") events.push([item.key, item.value.name]);
          }
          offset = batch.offset;
          const n = state.get("state", "n")?.is ?? null;
          print({ n, offset });
          if (n === until) {
            done = true;
            resolve();
          }
        });
      });
    } catch {
      // by the next round
    }
  }
  print({ state: Object.fromEntries(state.getType("state")), events, offset });
}

async function materialize() {
  const schema = {
    "~standard": { version: 1, vendor: "test", validate: (value) => ({ value }) },
  };
  const db = createStreamDB({
    streamOptions: { url, headers },
    live,
    state: createStateSchema({ state: { schema, type: "state", primaryKey: "key" } }),
  });
  await db.preload();
  print({ n: db.collections.state.get("n")?.is ?? null });
  while (db.collections.state.get("n")?.is !== until) await new Promise((resolve) => setTimeout(resolve, 10));
  print({ keys: [...db.collections.state.keys()].sort() });
  db.close();
}

await (process.env.DB ? materialize() : follow());
process.exit(0);
