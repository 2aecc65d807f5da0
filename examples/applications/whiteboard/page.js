import { call, make, me, open, values } from "../application.js";

const COLOURS = { blue: "#2f5bd0", green: "#25803d", red: "#b3342b", yellow: "#b58a12" };
const CURSOR_MS = 3_000, POINT_EVERY_MS = 80, MAX_POINTS = 1_000;

const main = document.getElementById("main");
const canvas = make("canvas", { ariaLabel: "The whiteboard. Draw with a mouse, a pen or a finger." });
const pens = Object.entries(COLOURS).map(([name, colour]) => {
  const pen = make("button", { type: "button", className: "colour", ariaLabel: name, title: name, onclick: () => pick(colour) });
  pen.style.background = colour;
  return pen;
});
const count = make("span", { className: "dim", ariaLive: "polite" });
main.append(
  make("div", { className: "row" }, ...pens,
    make("button", { type: "button", onclick: () => call(panel, "undo") }, "Undo mine"),
    make("button", { type: "button", onclick: () => call(panel, "clear") }, "Clear"), count),
  canvas);

let colour = "";
pick(COLOURS.blue);
let line = null; // what is being drawn: points from 0 to 1
const sent = new Set(); // lines that were drawn and are not committed yet
const cursors = new Map();
const panel = open("whiteboard", paint);
new ResizeObserver(paint).observe(canvas);

panel.on("cursor", ({ payload }) => {
  if (payload.by === me) return;
  clearTimeout(cursors.get(payload.by)?.timer);
  const timer = setTimeout(() => { cursors.delete(payload.by); paint(); }, CURSOR_MS);
  cursors.set(payload.by, { ...payload, timer });
  paint();
});

function pick(chosen) {
  colour = chosen;
  pens.forEach((pen, number) => { pen.ariaPressed = String(Object.values(COLOURS)[number] === chosen); });
}

function placeOf(event) {
  const box = canvas.getBoundingClientRect();
  const share = (value) => Math.round(Math.min(1, Math.max(0, value)) * 1e4) / 1e4;
  return [share((event.clientX - box.left) / box.width), share((event.clientY - box.top) / box.height)];
}

let told = 0;
canvas.onpointerdown = (event) => {
  canvas.setPointerCapture(event.pointerId);
  line = { colour, points: [...placeOf(event)] };
};
canvas.onpointermove = (event) => {
  const place = placeOf(event);
  if (line && line.points.length < 2 * MAX_POINTS) {
    line.points.push(...place);
    paint();
  }
  // a cursor that was missed is not worth waiting for: none is sent while the connection is away
  if (panel.status === "live" && event.timeStamp - told > POINT_EVERY_MS) {
    told = event.timeStamp;
    panel.call("point", { x: place[0], y: place[1] }).catch(() => {});
  }
};
canvas.onpointerup = canvas.onpointercancel = async () => {
  const drawn = line;
  line = null;
  if (!drawn) return;
  if (drawn.points.length < 4) drawn.points.push(...drawn.points);
  sent.add(drawn);
  await call(panel, "draw", drawn);
  sent.delete(drawn);
  paint();
};

function paint() {
  const ratio = devicePixelRatio, width = canvas.clientWidth * ratio, height = canvas.clientHeight * ratio;
  if (canvas.width !== Math.round(width) || canvas.height !== Math.round(height)) {
    canvas.width = Math.round(width);
    canvas.height = Math.round(height);
  }
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, width, height);
  pen.lineWidth = 3 * ratio;
  pen.lineJoin = pen.lineCap = "round";
  const strokes = values(panel.state ?? {}, "stroke:").sort((a, b) => Number(a.id) - Number(b.id));
  const others = cursors.size ? `, with ${[...cursors.keys()].join(", ")}` : "";
  count.textContent = `${strokes.length} ${strokes.length === 1 ? "stroke" : "strokes"}${others}`;
  for (const { colour: shade, points } of [...strokes, ...sent, ...(line ? [line] : [])]) {
    pen.strokeStyle = shade;
    pen.beginPath();
    for (let at = 0; at < points.length; at += 2) pen.lineTo(points[at] * width, points[at + 1] * height);
    pen.stroke();
  }
  pen.font = `${12 * ratio}px system-ui`;
  pen.fillStyle = getComputedStyle(canvas).color;
  for (const { by, x, y } of cursors.values()) {
    pen.beginPath();
    pen.arc(x * width, y * height, 4 * ratio, 0, 7);
    pen.fill();
    pen.fillText(by, x * width + 8 * ratio, y * height + 4 * ratio);
  }
}
