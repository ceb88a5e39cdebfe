const { cost, devices, stages, layers } = data;

const bits = (bytes) =>
  bytes * 8 >= 1e9 ? (bytes * 8 / 1e9).toFixed(1) + " Gbit/s" : (bytes * 8 / 1e6).toFixed(bytes < 1.25e6 ? 1 : 0) + " Mbit/s";
const joules = (j) => (j >= 10 ? j.toFixed(1) : j.toFixed(2)) + " J";
function shape(tag, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
function explained(node, text) {
  node.addEventListener("pointermove", (event) => {
    const tip = $("tip");
    tip.textContent = text;
    tip.style.display = "block";
    tip.style.left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8) + "px";
    tip.style.top = event.clientY + 16 + "px";
  });
  node.addEventListener("pointerleave", () => ($("tip").style.display = "none"));
  return node;
}

// A hue for each device, far apart for neighbours; all lie in the middle of light and dark.
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
const many = devices.length > 10;
const hue = (i) => (many ? (i * 137.5 + 212) % 360 : [212, 28, 150, 282, 52, 338, 186, 252, 96, 8][i]);
const deviceColour = (i) =>
  i === null ? "var(--other)" : `hsl(${hue(i)} ${dark ? 52 : 56}% ${dark ? 60 : 56}%)`;
const deviceName = (i) => (i === null ? "whoever is free" : devices[i].name);

// What it is, and its numbers.
$("title").textContent = data.model;
const links = devices.map((d) => d.link_bytes_per_s);
const [slow, fast] = [Math.min(...links), Math.max(...links)];
const plural = (count, what) => `${count.toLocaleString("en")} ${what}${count === 1 ? "" : "s"}`;
$("subtitle").textContent =
  `planned by ${data.plan.strategy} for ${data.objective} on ${plural(devices.length, "device")}${data.cluster}, ` +
  `links of ${slow === fast ? bits(fast) : bits(slow) + " to " + bits(fast)}, ${data.numerics.toLowerCase()} numerics`;
const moved = cost.stages.reduce((sum, s) => sum + s.scatter_bytes + s.exchange_bytes + s.gather_bytes, 0);
const used = devices.filter((d) => d.load.tiles > 0).length;
for (const [value, label] of [
  [time(cost.makespan_ns), "a frame, predicted"],
  ...(cost.rehearsed_ns === null ? [] : [[time(cost.rehearsed_ns), "the same, simulated"]]),
  [(data.alone_ns / cost.makespan_ns).toFixed(2) + "×", "the speed of one device"],
  [(1e9 / cost.period_ns).toFixed(2), "frames a second in a stream"],
  ["+" + (100 * (cost.makespan_ns / cost.bound_ns - 1)).toFixed(0) + " %", "over the lower bound"],
  [`${used} of ${devices.length}`, "devices compute"],
  [size(moved), "moved for a frame"],
  [(cost.multiply_adds / cost.model_multiply_adds).toFixed(3), "multiply-adds / needed"],
  ...(cost.energy_j === null ? [] : [[joules(cost.energy_j), "a frame, beyond idle"]]),
]) {
  const tile = element("div", { class: "tile" });
  tile.append(element("b", {}, value), element("span", {}, label));
  $("numbers").append(tile);
}
$("verdict").textContent = data.verdict;
for (const turn of data.turns) $("turns").append(element("li", {}, turn));

// The network: a bar for each layer, and under it the stages.
const kinds = [
  ["convolution", "--conv", /conv/i], ["pooling", "--pool", /pool|reduce/i],
  ["product", "--product", /linear|matmul|gemm/i], ["the rest", "--other", /./],
];
const kindOf = (operator) => kinds.find(([, , words]) => words.test(operator)) || kinds[3];
for (const [name, colour] of kinds) {
  if (!layers.some((layer) => kindOf(layer.operator)[0] === name)) continue;
  const item = element("span");
  const dot = element("i");
  dot.style.background = `var(${colour})`;
  item.append(dot, name);
  $("kinds").append(item);
}
{
  const step = Math.max(5, Math.min(60, 1148 / layers.length));
  const [width, top, height, band] = [Math.max(step * layers.length, 200) + 2, 8, 130, 58];
  const svg = shape("svg", { width, height: top + height + band + 28, role: "img" });
  const most = Math.max(...layers.map((layer) => layer.takes_ns), 1);
  for (const [i, layer] of layers.entries()) {
    // Roots, so that small layers are still seen.
    const tall = Math.max(2, height * Math.sqrt(layer.takes_ns / most));
    const bar = shape("rect", {
      x: i * step + 1, y: top + height - tall, width: Math.max(step - 2, 1), height: tall, rx: Math.min(3, step / 4),
      fill: `var(${kindOf(layer.operator)[1]})`, opacity: layer.tiled ? 1 : 0.55,
    });
    const text = `${layer.name}\n${layer.operator}, ${layer.dims.join(" x ")}\n${time(layer.takes_ns)} on the fastest device` +
      (layer.tiled ? "" : "\nsees its whole input: cannot be cut");
    svg.append(explained(bar, text));
  }
  for (const [i, stage] of stages.entries()) {
    const x = stage.first_layer * step + 0.5, wide = (stage.end_layer - stage.first_layer) * step - 1;
    const group = shape("g", {});
    const load = new Map();
    const area = (tile) => (tile.rows[1] - tile.rows[0]) * (tile.cols[1] - tile.cols[0]);
    for (const tile of stage.tiles) load.set(tile.device, (load.get(tile.device) || 0) + area(tile));
    const all = [...load.values()].reduce((a, b) => a + b, 0) || 1;
    let y = top + height + 6;
    for (const [device, part] of load) {
      const tall = (band * part) / all;
      group.append(shape("rect", { x, y, width: Math.max(wide, 0.5), height: tall, fill: deviceColour(device) }));
      y += tall;
    }
    const names = [...load.keys()].map(deviceName).join(", ");
    explained(group, `stage ${i + 1}: ${stage.first} to ${stage.last}\n${stage.cut}: ${names}\n${time(stage.cost.duration_ns)}`);
    svg.append(group);
    if (wide > 22) {
      svg.append(shape("text", { x: x + wide / 2, y: top + height + band + 20, "text-anchor": "middle" }, String(i + 1)));
    }
  }
  $("network").append(svg);
}

// Each stage with its regions.
for (const [i, device] of devices.entries()) {
  if (device.load.tiles === 0 || i >= 40) continue;
  const item = element("span");
  const dot = element("i");
  dot.style.background = deviceColour(i);
  item.append(dot, device.name);
  $("owners").append(item);
}
const STAGES_MAX = 60;
for (const [i, stage] of stages.slice(0, STAGES_MAX).entries()) {
  const row = element("div", { class: "stage" });
  const [rows, cols] = stage.extent;
  const edge = 74, tall = rows >= cols ? edge : Math.max(10, (edge * rows) / cols), wide = cols >= rows ? edge : Math.max(10, (edge * cols) / rows);
  const svg = shape("svg", { width: edge, height: edge, viewBox: `0 0 ${edge} ${edge}` });
  for (const tile of stage.tiles) {
    const x = (edge - wide) / 2 + (wide * tile.cols[0]) / cols, y = (edge - tall) / 2 + (tall * tile.rows[0]) / rows;
    const part = shape("rect", {
      x: x + 0.5, y: y + 0.5, rx: 1.5, fill: deviceColour(tile.device),
      width: Math.max((wide * (tile.cols[1] - tile.cols[0])) / cols - 1, 0.6),
      height: Math.max((tall * (tile.rows[1] - tile.rows[0])) / rows - 1, 0.6),
    });
    svg.append(explained(part, `${deviceName(tile.device)}\nrows ${tile.rows.join("..")}, columns ${tile.cols.join("..")} of ${rows} x ${cols}`));
  }
  const words = element("p");
  const count = stage.end_layer - stage.first_layer;
  words.append(element("b", {}, `${i + 1}. ${count === 1 ? stage.first : stage.first + " to " + stage.last}`));
  const who = stage.cut === "whole" ? `whole on ${stage.tiles[0] ? deviceName(stage.tiles[0].device) : "one device"}` : stage.cut;
  words.append(element("small", {}, `${plural(count, "layer")}, ${who}, ${time(stage.cost.duration_ns)}`));
  const c = stage.cost;
  const ways = [[c.scatter_bytes, "scattered"], [c.exchange_bytes, "from other devices"], [c.gather_bytes, "gathered"]];
  const ways_said = ways.filter(([bytes]) => bytes > 0).map(([bytes, what]) => `${size(bytes)} ${what}`);
  if (stage.handover === "exchange" && i + 1 < stages.length) ways_said.push("stays on the devices");
  words.append(element("small", {}, ways_said.join(", ") || "nothing moves"));
  row.append(svg, words);
  $("stages").append(row);
}
if (stages.length > STAGES_MAX) $("stages").append(element("p", { class: "hint" }, `and ${stages.length - STAGES_MAX} more stages`));

// Devices.
{
  const knowsEnergy = devices.some((d) => d.load.energy_j !== null);
  const head = element("tr");
  const titles = ["device", "alone", "link", "tiles", "busy", "multiply-adds", "bytes in", "bytes out", "weights", "memory at most"];
  for (const title of titles.concat(knowsEnergy ? ["energy"] : [])) head.append(element("th", {}, title));
  $("devices").append(head);
  for (const [i, device] of devices.entries()) {
    const load = device.load, row = element("tr", load.tiles === 0 ? { class: "idle" } : {});
    const name = element("td");
    const dot = element("i");
    dot.style.background = load.tiles ? deviceColour(i) : "var(--track)";
    name.append(dot, device.name);
    const busy = element("td"), bar = element("span", { class: "bar" }), full = element("u");
    full.style.width = Math.min(100, (100 * load.busy_ns) / Math.max(cost.makespan_ns, 1)) + "%";
    full.style.background = deviceColour(i);
    bar.append(full);
    busy.append(bar, time(load.busy_ns));
    const memory = load.weight_bytes + load.tile_bytes;
    const limit = device.memory_bytes === null ? "" : " of " + size(device.memory_bytes);
    row.append(name);
    for (const text of [time(device.alone_ns), bits(device.link_bytes_per_s), String(load.tiles)]) row.append(element("td", {}, text));
    row.append(busy);
    const rest = [(load.multiply_adds / 1e9).toFixed(2) + " G", size(load.bytes_in), size(load.bytes_out), size(load.weight_bytes), size(memory) + limit];
    if (knowsEnergy) rest.push(load.energy_j === null ? "?" : joules(load.energy_j));
    for (const text of rest) row.append(element("td", {}, text));
    $("devices").append(row);
  }
}

// Ways between devices that are not what their links suggest.
if (data.pairs.length > 0) {
  const said = data.pairs.slice(0, 12).map((p) => `${p.devices.join(" and ")} ${bits(p.bytes_per_s)}, a round trip ${time(p.round_trip_ns)}`);
  const more = data.pairs.length > 12 ? `; and ${data.pairs.length - 12} more` : "";
  $("pairs").textContent = "Between devices, where their links would suggest otherwise: " + said.join("; ") + more + ".";
}

// The plans that lost, by what was asked for.
{
  const energy = data.objective === "energy", stream = data.objective === "throughput";
  const of = (c) => (energy ? c.energy_j : stream ? c.period_ns : c.makespan_ns);
  const say = energy ? joules : time;
  const all = [{ strategy: data.plan.strategy, cost, why: "this plan", best: true }].concat(data.runner_ups);
  const known = all.filter((o) => o.cost && of(o.cost) !== null);
  // What takes ten times as long needs no bar to scale.
  const most = Math.min(Math.max(...known.map((o) => of(o.cost))), 4 * of(cost));
  for (const other of all) {
    const row = element("div", { class: other.best ? "other best" : "other" });
    const track = element("div", { class: "track" }), full = element("u");
    const value = other.cost ? of(other.cost) : null;
    full.style.width = value === null ? "0" : Math.min(100, (100 * value) / most) + "%";
    track.append(full);
    if (!energy && !stream) {
      const bound = element("s");
      bound.style.left = (100 * cost.bound_ns) / most + "%";
      track.append(bound);
    }
    row.append(element("span", {}, other.strategy.split(":")[0]), track, element("em", {}, value === null ? "no plan" : say(value)), element("small", {}, other.why));
    $("others").append(row);
  }
}

// What the bound is made of.
{
  const b = cost.bound;
  const most = Math.max(cost.makespan_ns, cost.rehearsed_ns || 0);
  const simulated = [["simulated", cost.rehearsed_ns, "this plan played through, with words, queues and stealing"]];
  for (const [name, ns, why] of [
    ["this plan", cost.makespan_ns, "first scatter to last gather of one frame"],
    ...(cost.rehearsed_ns === null ? [] : simulated),
    ["lower bound", cost.bound_ns, "the largest of the terms below, and a message there and back"],
    ["work", b.work_ns, "all layers spread over all devices at will; what cannot be cut, on the fastest"],
    ["uncut", b.uncut_ns, "layers that see their whole input, one after another"],
    ["moving", b.moving_ns, "the input or the output over the fastest link"],
    ["way", b.way_ns, "a message there and back"],
  ]) {
    const row = element("div", { class: ["this plan", "simulated"].includes(name) ? "other best" : "other" });
    const track = element("div", { class: "track" }), full = element("u");
    full.style.width = Math.min(100, (100 * ns) / most) + "%";
    if (name === "lower bound") full.style.background = "var(--bound)";
    track.append(full);
    row.append(element("span", {}, name), track, element("em", {}, time(ns)), element("small", {}, why));
    $("bound").append(row);
  }
}
