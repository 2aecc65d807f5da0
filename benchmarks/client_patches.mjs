// What benchmarks.client_figures asks of Node: ROLE URL COUNT, and one JSON line as the answer.
//
//     client    the package applies COUNT PATCHes       {"cpuMs"}: from CONNECTED to the last of them
//     key       the same, with a subscriber of one key
//     state     the same, with a subscriber that reads the whole state
//     loop      a loop by hand does, and checks nothing
//     many      COUNT panels are connected               {"bytes"}: what each of them adds to the process
const [role, url, count] = [process.argv[2], process.argv[3], Number(process.argv[4])];
const { connect } = await import(new URL("../clients/typescript/dist/node.js", import.meta.url).href);

const cpuMs = () => {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
};
const say = (line) => {
  process.stdout.write(`${JSON.stringify(line)}\n`);
  process.exit(0);
};

if (role === "loop") {
  const state = {};
  let began = 0;
  const socket = new WebSocket(`${url}/panels/p/ws`);
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    if (message.type === "CONNECTED") {
      Object.assign(state, message.state);
      began = cpuMs();
    } else if (message.type === "PATCH") {
      for (const { op, key, value } of message.mutations)
        if (op === "set") state[key] = value;
        else delete state[key];
      if (message.seq === count) say({ cpuMs: cpuMs() - began });
    }
  };
} else if (role === "many") {
  const first = connect(url, { panel: "p" });
  await first.ready;
  globalThis.gc?.();
  const before = process.memoryUsage.rss();
  const panels = Array.from({ length: count }, () => connect(url, { panel: "p" }));
  await Promise.all(panels.map((panel) => panel.ready));
  globalThis.gc?.();
  say({ bytes: (process.memoryUsage.rss() - before) / count });
} else {
  const panel = connect(url, { panel: "p" });
  await panel.ready;
  const began = cpuMs();
  if (role === "key") panel.subscribe("k0", () => {});
  if (role === "state") panel.subscribe((state) => state.k0, () => {});
  panel.on("end", () => say({ cpuMs: cpuMs() - began }));
}
