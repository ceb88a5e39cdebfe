const report = data.report;
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const [DEVICE, ACTIVITY, START, END, BYTES, TASK] = [0, 1, 2, 3, 4, 5];

// Numbers.
$("subtitle").textContent =
  `${report.frames} ${report.frames === 1 ? "frame" : "frames"} by ${report.strategy} over ${report.devices.length} devices, seed ` +
  `${report.seed}; ${report.steps.toLocaleString("en")} simulated steps`;
const ms = 1e6;
for (const [value, label] of [
  [time(report.makespan_ms * ms), "makespan of a frame"],
  [time(report.latency_ms.p90 * ms), "latency, 9 of 10 frames"],
  [report.frames_per_s.toFixed(2), "frames a second"],
  ["+" + (100 * report.gap).toFixed(1) + " %", "over the lower bound"],
  [report.redundancy.toFixed(3), "multiply-adds / needed"],
  [report.energy_j_per_frame.toFixed(1) + " J", "energy of a frame"],
  [String(report.counters.stolen_tasks), `of ${report.counters.tasks} tasks stolen`],
]) {
  const tile = element("div", { class: "tile" });
  tile.append(element("b", {}, value), element("span", {}, label));
  $("numbers").append(tile);
}

// Colours: a hue for each frame, so that neighbours in time differ.
const frameColour = (frame, light) => `hsl(${(frame * 67 + 215) % 360} 58% ${light}%)`;
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const colour = (span) =>
  span[ACTIVITY] === "compute" ? frameColour(span[TASK][0], dark ? 58 : 52) : css("--" + span[ACTIVITY]);
for (const [name, what] of [
  ["compute", "computing, a colour for each frame"], ["receive", "inputs on their way"],
  ["send", "results on their way"], ["weights", "weights"],
]) {
  const item = element("span");
  const dot = element("i");
  dot.style.background = name === "compute" ? frameColour(0, 52) : css("--" + name);
  item.append(dot, what);
  $("legend").append(item);
}

// The Gantt chart.
const devices = report.devices.map((d) => d.name);
const shown = Math.min(devices.length, 60);
const starts = data.frames.map((f) => f[1]);
const allEnd = Math.max(1, ...data.frames.map((f) => f[2]), ...data.spans.map((s) => s[END]));
const allStart = Math.max(0, Math.min(...starts, ...data.spans.map((s) => s[START])) - 0.02e9);
let view = [allStart, allEnd + (allEnd - allStart) * 0.01];
const LEFT = 118, ROW = shown > 20 ? 16 : 34, AXIS = 22;

function canvas(id, height) {
  const node = $(id), ratio = devicePixelRatio || 1, width = node.parentElement.clientWidth;
  node.width = width * ratio; node.height = height * ratio; node.style.height = height + "px";
  const context = node.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "12px system-ui, 'DejaVu Sans', sans-serif";
  return [context, width, height];
}
const x = (ns, width) => LEFT + ((ns - view[0]) / (view[1] - view[0])) * (width - LEFT - 8);
function axis(context, width, height) {
  const range = view[1] - view[0];
  let step = Math.pow(10, Math.floor(Math.log10(range / 6)));
  for (const times of [1, 2, 5, 10]) if (range / (step * times) <= 9) { step *= times; break; }
  context.fillStyle = css("--faint"); context.strokeStyle = css("--line"); context.textAlign = "center";
  for (let at = Math.ceil(view[0] / step) * step; at <= view[1]; at += step) {
    const px = Math.round(x(at, width)) + 0.5;
    context.beginPath(); context.moveTo(px, 0); context.lineTo(px, height - AXIS); context.stroke();
    context.fillText((at / 1e9).toFixed(step < 1e7 ? 3 : step < 1e9 ? 2 : 0) + " s", px, height - 6);
  }
}
function gantt() {
  const height = shown * ROW + AXIS + 6;
  const [context, width] = canvas("gantt", height);
  axis(context, width, height);
  context.textAlign = "right"; context.fillStyle = css("--ink");
  for (let i = 0; i < shown; i++) {
    let name = devices[i];
    while (name.length > 4 && context.measureText(name).width > LEFT - 16) name = name.slice(0, -2) + "…";
    context.fillText(name, LEFT - 10, i * ROW + ROW / 2 + 4);
    context.strokeStyle = css("--line");
    context.beginPath(); context.moveTo(LEFT, (i + 1) * ROW + 0.5); context.lineTo(width, (i + 1) * ROW + 0.5); context.stroke();
  }
  const lanes = { compute: [0.1, 0.56], receive: [0.68, 0.1], send: [0.79, 0.1], weights: [0.9, 0.06] };
  for (const span of data.spans) {
    if (span[DEVICE] >= shown || span[END] < view[0] || span[START] > view[1]) continue;
    const [offset, share] = lanes[span[ACTIVITY]];
    const from = Math.max(LEFT, x(span[START], width)), to = Math.min(width, x(span[END], width));
    context.fillStyle = colour(span);
    context.globalAlpha = span[ACTIVITY] === "compute" ? 1 : 0.8;
    const gap = span[ACTIVITY] === "compute" && to - from > 3 ? 1 : 0;
    context.fillRect(from, span[DEVICE] * ROW + ROW * offset, Math.max(0.7, to - from - gap), Math.max(1.5, ROW * share));
  }
  context.globalAlpha = 1;
  for (const [at, device, what] of data.marks) {
    if (at < view[0] || at > view[1] || what === "joined") continue;
    const done = / done$/.test(what), px = x(at, width);
    context.strokeStyle = done ? css("--faint") : css("--bad");
    context.setLineDash(done ? [2, 4] : []);
    context.lineWidth = device === null ? 1 : 2;
    context.beginPath();
    context.moveTo(px, device === null ? 0 : device * ROW + 1);
    context.lineTo(px, device === null ? shown * ROW : (device + 1) * ROW - 1);
    context.stroke(); context.setLineDash([]); context.lineWidth = 1;
  }
}

// Load over time: spans folded into bins.
const BINS = 240;
function bins(weight) {
  const folded = { receive: new Float64Array(BINS), send: new Float64Array(BINS), weights: new Float64Array(BINS), compute: new Float64Array(BINS) };
  const range = (view[1] - view[0]) / BINS;
  for (const span of data.spans) {
    const length = Math.max(1, span[END] - span[START]);
    const from = Math.max(0, Math.floor((span[START] - view[0]) / range));
    const to = Math.min(BINS - 1, Math.floor((span[END] - view[0]) / range));
    for (let bin = from; bin <= to; bin++) {
      const low = Math.max(span[START], view[0] + bin * range), high = Math.min(span[END], view[0] + (bin + 1) * range);
      if (high > low) folded[span[ACTIVITY]][bin] += weight(span) * (high - low) / length / range;
    }
  }
  return folded;
}
function stacked(id, layers, most, label) {
  const height = 190, [context, width] = canvas(id, height);
  axis(context, width, height);
  context.textAlign = "right"; context.fillStyle = css("--faint");
  for (const part of [0, 0.5, 1]) context.fillText(label(most * part), LEFT - 10, 14 + (height - AXIS - 14) * (1 - part) + (part ? 4 : 0));
  const base = new Float64Array(BINS);
  for (const [values, fill] of layers) {
    context.fillStyle = fill; context.beginPath();
    const at = (bin) => LEFT + ((bin + 0.5) / BINS) * (width - LEFT - 8);
    const y = (value) => height - AXIS - Math.min(1, value / most) * (height - AXIS - 14);
    for (let bin = 0; bin < BINS; bin++) context.lineTo(at(bin), y(base[bin] + values[bin]));
    for (let bin = BINS - 1; bin >= 0; bin--) context.lineTo(at(bin), y(base[bin]));
    context.fill();
    for (let bin = 0; bin < BINS; bin++) base[bin] += values[bin];
  }
}
function loads() {
  const busy = bins((span) => span[END] - span[START]).compute;
  stacked("use", [[busy, css("--accent")]], devices.length, (n) => (100 * n / devices.length).toFixed(0) + " %");
  const moved = bins((span) => span[BYTES] * 1e9);
  let most = 1;
  for (let bin = 0; bin < BINS; bin++) most = Math.max(most, moved.receive[bin] + moved.send[bin] + moved.weights[bin]);
  stacked("load", [[moved.receive, css("--receive")], [moved.send, css("--send")], [moved.weights, css("--weights")]], most, (n) => (n * 8 / 1e6).toFixed(n * 8 / 1e6 < 10 ? 1 : 0) + " Mb/s");
}
function draw() { gantt(); loads(); }

// Zoom, move, point.
const chart = $("gantt");
const atPointer = (event) => {
  const box = chart.getBoundingClientRect();
  return view[0] + ((event.clientX - box.left - LEFT) / (box.width - LEFT - 8)) * (view[1] - view[0]);
};
chart.addEventListener("wheel", (event) => {
  event.preventDefault();
  const centre = atPointer(event), factor = event.deltaY > 0 ? 1.25 : 0.8;
  view = [centre - (centre - view[0]) * factor, centre + (view[1] - centre) * factor];
  draw();
}, { passive: false });
let held = null;
chart.addEventListener("pointerdown", (event) => { held = [event.clientX, [...view]]; chart.setPointerCapture(event.pointerId); });
chart.addEventListener("pointerup", () => { held = null; });
chart.addEventListener("dblclick", () => { view = [allStart, allEnd + (allEnd - allStart) * 0.01]; draw(); });
chart.addEventListener("pointermove", (event) => {
  const box = chart.getBoundingClientRect();
  if (held) {
    const moved = ((event.clientX - held[0]) / (box.width - LEFT)) * (held[1][1] - held[1][0]);
    view = [held[1][0] - moved, held[1][1] - moved];
    return draw();
  }
  const device = Math.floor((event.clientY - box.top) / ROW), at = atPointer(event);
  const part = ((event.clientY - box.top) % ROW) / ROW;
  const wanted = part < 0.66 ? "compute" : part < 0.78 ? "receive" : part < 0.89 ? "send" : "weights";
  const hit = data.spans.find((s) => s[DEVICE] === device && s[START] <= at && s[END] >= at && s[ACTIVITY] === wanted);
  const tip = $("tip");
  tip.style.display = hit ? "block" : "none";
  if (!hit) return;
  const task = hit[TASK];
  tip.textContent = (task ? `frame ${task[0]} stage ${task[1]} tile ${task[2]}` + (task[3] > 1 ? `, attempt ${task[3]}` : "") : "weights") +
    `\n${wanted} ${time(hit[END] - hit[START])} from ${time(hit[START])}` + (hit[BYTES] ? `\n${size(hit[BYTES])}` : "");
  tip.style.left = Math.min(event.clientX + 14, innerWidth - 240) + "px";
  tip.style.top = event.clientY + 14 + "px";
});
chart.addEventListener("pointerleave", () => { $("tip").style.display = "none"; });

// The cluster: a star, as wide as what moved.
const SVG = "http://www.w3.org/2000/svg";
function svg(tag, attributes, parent, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}
const deviceColour = (i) => `hsl(${(i * 47 + 205) % 360} 50% ${dark ? 56 : 54}%)`;
{
  const many = Math.min(devices.length, 24), star = svg("svg", { viewBox: "-40 0 600 300", width: "100%" });
  const most = Math.max(1, ...report.devices.map((d) => d.received_bytes + d.sent_bytes));
  for (let i = 0; i < many; i++) {
    const turn = (2 * Math.PI * i) / many - Math.PI / 2, device = report.devices[i];
    const [px, py] = [260 + 180 * Math.cos(turn), 150 + 112 * Math.sin(turn)];
    const width = 1 + 9 * (device.received_bytes + device.sent_bytes) / most;
    svg("line", { x1: 260, y1: 150, x2: px, y2: py, stroke: css("--line"), "stroke-width": width }, star);
    const radius = 9 + 13 * device.utilisation;
    svg("circle", { cx: px, cy: py, r: radius, fill: deviceColour(i) }, star);
    const side = Math.abs(Math.cos(turn)) < 0.3 ? "middle" : Math.cos(turn) > 0 ? "start" : "end";
    const dx = side === "middle" ? 0 : (side === "start" ? 1 : -1) * (radius + 6);
    const dy = side === "middle" ? (Math.sin(turn) > 0 ? radius + 14 : -radius - 6) : 4;
    svg("text", { x: px + dx, y: py + dy, "text-anchor": side }, star, device.name);
  }
  svg("circle", { cx: 260, cy: 150, r: 24, fill: css("--ink") }, star);
  const label = svg("text", { x: 260, y: 154, "text-anchor": "middle" }, star, "head");
  label.style.fill = css("--panel");
  $("cluster").append(star);
  if (devices.length > many) $("cluster").append(element("p", { class: "hint" }, `and ${devices.length - many} more`));
}

// The plan: each stage with its grid, a colour for each device.
for (const [index, stage] of data.stages.slice(0, 8).entries()) {
  const row = element("div", { class: "stage" });
  const drawn = svg("svg", { width: 84, height: 84, viewBox: "0 0 84 84" });
  const rows = stage.grid ? stage.grid[0] : [1], cols = stage.grid ? stage.grid[1] : [1];
  const total = (shares) => shares.reduce((sum, share) => sum + share, 0);
  let y = 0;
  rows.forEach((high, r) => {
    let px = 0;
    cols.forEach((wide, c) => {
      const box = { x: px, y, width: (84 * wide) / total(cols), height: (84 * high) / total(rows) };
      const fill = deviceColour(stage.placement[r * cols.length + c]);
      svg("rect", { ...box, fill, stroke: css("--panel"), "stroke-width": 1 }, drawn);
      px += box.width;
    });
    y += (84 * high) / total(rows);
  });
  const words = element("p");
  const layers = stage.layers === 1 ? stage.first : `${stage.first} to ${stage.last}`;
  words.append(`Stage ${index}: ${layers}`, element("br"));
  const cut = stage.grid ? `${rows.length} x ${cols.length} tiles` : `whole, on ${devices[stage.placement[0]] || "one device"}`;
  words.append(element("small", {}, `${stage.layers} layers, ${cut}`));
  row.append(drawn, words);
  $("plan").append(row);
}
if (data.stages.length > 8) $("plan").append(element("p", { class: "hint" }, `and ${data.stages.length - 8} more stages`));

// Devices.
const head = element("tr");
for (const name of ["device", "use", "tasks", "stolen", "busy", "received", "sent", "peak memory", "energy", "warmest"]) head.append(element("th", {}, name));
$("devices").append(head);
for (const device of report.devices.slice(0, 100)) {
  const row = element("tr");
  row.append(element("td", {}, device.name));
  const use = element("td"), bar = element("span", { class: "bar" }), fill = element("i");
  fill.style.width = 100 * device.utilisation + "%";
  bar.append(fill); use.append(bar, (100 * device.utilisation).toFixed(0) + " %"); row.append(use);
  for (const value of [device.tasks, device.stolen, time(device.busy_ns), size(device.received_bytes), size(device.sent_bytes), size(device.peak_bytes), device.energy.total_j.toFixed(1) + " J", device.peak_c === null ? "" : device.peak_c.toFixed(0) + " °C"]) row.append(element("td", {}, String(value)));
  $("devices").append(row);
}

// Events.
for (const [at, device, what] of data.marks.slice(0, 400)) {
  const item = element("li");
  const bad = !/^joined$| done$|^restart$|healed/.test(what);
  item.append(element("time", {}, (at / 1e9).toFixed(3) + " s"), element("span", bad ? { class: "bad" } : {}, (device === null ? "" : devices[device] + ": ") + what));
  $("events").append(item);
}
draw();
addEventListener("resize", draw);
