// The page of page.py: sends images one after the other, shows what comes back.
// Names come from files and from the model: they are set as text, never as HTML.

const KEPT_RESULTS = 12; // each holds its pixels in memory

const element = (id) => document.getElementById(id);
const stage = element("stage");
const canvas = element("classes");
const outlines = element("outlines");
const maxBytes = Number(document.body.dataset.maxBytes);

const queue = [];
const results = [];
let busy = false;
let shown = null;
let alone = null; // id of the one class that is painted, or null for all
let cursor = null; // {x, y} in pixels of the image, moved by the arrow keys

// ---- Images in ---------------------------------------------------------------------

function addFiles(files) {
  queue.push(...files);
  if (busy) return;
  clearErrors();
  emptyQueue();
}

function addShared(transfer, verb) {
  if (transfer.files.length) addFiles(transfer.files);
  else addError(`What was ${verb}`, "It holds no file. Save the image, then choose it.");
}

async function emptyQueue() {
  busy = true;
  element("progress").hidden = false;
  for (let done = 0; queue.length; done++) {
    const file = queue.shift();
    const count = done + 1 + queue.length;
    const place = count > 1 ? ` (${done + 1} of ${count})` : "";
    element("status").textContent = `Segmenting ${file.name}${place} …`;
    try {
      keep(await segment(file));
    } catch (error) {
      addError(file.name, error.message);
    }
  }
  element("progress").hidden = true;
  element("status").textContent = "";
  busy = false;
}

async function segment(file) {
  const bytes = await bytesOf(file);
  const start = performance.now();
  const answer = await ask(bytes);
  const answered = performance.now();
  const served = Object.values(answer.milliseconds).reduce((a, b) => a + b);
  const image = new Image();
  image.src = URL.createObjectURL(blob(answer.image_jpeg, "image/jpeg"));
  image.alt = file.name;
  const [ids] = await Promise.all([inflate(answer.class_ids), image.decode()]);
  const result = {
    ...answer,
    name: file.name,
    image,
    ids,
    classesPng: blob(answer.classes_png, "image/png"),
  };
  show(result);
  const end = performance.now();
  Object.assign(result.milliseconds, {
    transfer: answered - start - served,
    drawing: end - answered,
    total: end - start,
  });
  showTimes(result.milliseconds);
  return result;
}

async function bytesOf(file) {
  if (file.size > maxBytes) {
    const most = maxBytes / 2 ** 20;
    const size = (file.size / 2 ** 20).toFixed(1);
    throw new Error(`At most ${most} MiB are taken, this file has ${size} MiB.`);
  }
  try {
    return await file.arrayBuffer();
  } catch {
    throw new Error("It cannot be read. Is it a folder, or has it been moved?");
  }
}

async function ask(bytes) {
  let response, answer;
  try {
    response = await fetch("/segment", {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: bytes,
    });
    answer = await response.json();
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function bytesFromBase64(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function blob(base64, type) {
  return new Blob([bytesFromBase64(base64)], { type });
}

async function inflate(base64) {
  const packed = new Blob([bytesFromBase64(base64)]).stream();
  const stream = packed.pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// ---- Errors ------------------------------------------------------------------------

function addError(name, sentence) {
  const strong = document.createElement("strong");
  strong.textContent = name;
  const item = document.createElement("li");
  item.append(strong, `: ${sentence}`);
  element("errors").querySelector("ul").append(item);
  element("errors").hidden = false;
}

function clearErrors() {
  element("errors").querySelector("ul").replaceChildren();
  element("errors").hidden = true;
}

// ---- The result --------------------------------------------------------------------

function show(result) {
  shown = result;
  alone = null;
  cursor = null;
  hideTip();
  element("result").hidden = false;
  element("drop").classList.add("compact");
  stage.style.setProperty("--width", result.width);
  stage.style.setProperty("--height", result.height);
  element("image").replaceChildren(result.image);
  element("name").textContent = result.name;
  const megapixels = ((result.width * result.height) / 1e6).toFixed(2);
  element("size").textContent =
    `${result.width} × ${result.height} pixels, ${megapixels} megapixels`;
  const clear = result.legend.filter((entry) => entry.hidden);
  element("clear").hidden = !clear.length;
  element("hidden-names").textContent = clear.map((entry) => entry.name).join(", ");
  showLegend();
  showTimes(result.milliseconds);
  paint();
  markCurrent();
}

function paint() {
  const { ids, width, height, legend } = shown;
  const palette = new Uint8Array(4 * 256); // transparent
  for (const { id, color } of legend) {
    if (isPainted(id)) palette.set([...color, 255], 4 * id);
  }
  const words = new Uint32Array(palette.buffer);
  const picture = new ImageData(width, height);
  const pixels = new Uint32Array(picture.data.buffer);
  for (let i = 0; i < ids.length; i++) pixels[i] = words[ids[i]];
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(picture, 0, 0);
  paintOutlines();
}

// One class alone, if one is pressed; else all but the hidden, if not asked for.
function isPainted(id) {
  if (alone !== null) return alone === id;
  const { hidden } = shown.legend.find((entry) => entry.id === id);
  return !hidden || element("paint-hidden").checked;
}

// As `outlines` of visualize.py: thin, and on pixels that are painted alone.
function paintOutlines() {
  const { ids, width, height, legend } = shown;
  const painted = new Uint8Array(256);
  for (const { id } of legend) painted[id] = isPainted(id);
  const picture = new ImageData(width, height);
  const pixels = new Uint32Array(picture.data.buffer);
  const thickness = 1 + Math.floor(Math.max(width, height) / 1500);
  for (let distance = 1; distance <= thickness; distance++) {
    const down = distance * width;
    for (let i = 0; i < ids.length; i++) {
      if (i % width < width - distance) outline(i, i + distance);
      if (i + down < ids.length) outline(i, i + down);
    }
  }
  function outline(here, there) {
    if (ids[here] === ids[there]) return;
    if (painted[ids[here]]) pixels[here] = 0xffffffff;
    else if (painted[ids[there]]) pixels[there] = 0xffffffff;
  }
  outlines.width = width;
  outlines.height = height;
  outlines.getContext("2d").putImageData(picture, 0, 0);
}

function percent(share) {
  return share < 0.001 ? "< 0.1 %" : `${(100 * share).toFixed(1)} %`;
}

function rgb(color) {
  return `rgb(${color.join(" ")})`;
}

function span(className, text = "") {
  const node = document.createElement("span");
  node.className = className;
  node.textContent = text;
  return node;
}

function showLegend() {
  const items = shown.legend.map((entry) => {
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.id = entry.id;
    const bar = span("bar");
    bar.style.width = `${100 * entry.share}%`;
    const swatch = span("swatch");
    swatch.style.backgroundColor = rgb(entry.color);
    const parts = [span("name", entry.name), span("share", percent(entry.share))];
    button.append(bar, swatch, ...parts);
    button.classList.toggle("clear", entry.hidden && !element("paint-hidden").checked);
    button.addEventListener("click", () => {
      alone = alone === entry.id ? null : entry.id;
      paint();
      markAlone();
    });
    const item = document.createElement("li");
    item.append(button);
    return item;
  });
  element("legend").replaceChildren(...items);
  markAlone();
}

function markAlone() {
  element("legend").classList.toggle("one", alone !== null);
  for (const button of element("legend").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", Number(button.dataset.id) === alone);
  }
}

const TIMES = {
  waiting: "Waiting for its turn",
  decode: "Decoding",
  network: "Neural network",
  encode: "Encoding the answer",
  transfer: "Upload and answer",
  drawing: "Drawing",
  total: "Total",
};

function showTimes(milliseconds) {
  const nodes = [];
  for (const [key, label] of Object.entries(TIMES)) {
    if (!(key in milliseconds)) continue;
    if (key === "waiting" && milliseconds.waiting < 1) continue; // nobody was before it
    const term = document.createElement("dt");
    const value = document.createElement("dd");
    term.className = value.className = key;
    term.textContent = label;
    value.textContent = duration(milliseconds[key]);
    nodes.push(term, value);
  }
  element("times").replaceChildren(...nodes);
}

function duration(milliseconds) {
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(2)} s`;
  return `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;
}

// ---- Images so far -----------------------------------------------------------------

function keep(result) {
  const thumbnail = document.createElement("img");
  thumbnail.src = result.image.src;
  thumbnail.alt = "";
  const button = document.createElement("button");
  button.type = "button";
  button.title = result.name;
  button.append(thumbnail, span("", result.name));
  button.addEventListener("click", () => show(result));
  result.item = document.createElement("li");
  result.item.append(button);
  element("history").append(result.item);
  results.push(result);
  if (results.length > KEPT_RESULTS) {
    const old = results.shift();
    old.item.remove();
    URL.revokeObjectURL(old.image.src);
  }
  element("history").hidden = results.length < 2;
  markCurrent();
}

function markCurrent() {
  for (const result of results) {
    const button = result.item.firstChild;
    if (result === shown) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
  if (!shown.item) return;
  const [list, item] = [element("history"), shown.item];
  const middle = item.offsetLeft - list.offsetLeft + item.offsetWidth / 2;
  list.scrollLeft = middle - list.clientWidth / 2;
}

// ---- The class of a pixel ----------------------------------------------------------

function entryAt({ x, y }) {
  const id = shown.ids[y * shown.width + x];
  return shown.legend.find((entry) => entry.id === id);
}

function showTip(pixel) {
  const { name, color } = entryAt(pixel);
  const tip = element("tip");
  const [swatch, text] = tip.children;
  swatch.style.backgroundColor = rgb(color);
  text.textContent = name;
  tip.hidden = false;
  const box = stage.getBoundingClientRect();
  const left = ((pixel.x + 0.5) / shown.width) * box.width;
  const top = ((pixel.y + 0.5) / shown.height) * box.height;
  // Above the pixel, or below it near the top edge; never past a side.
  const above = top - tip.offsetHeight - 14;
  const room = Math.max(0, box.width - tip.offsetWidth);
  tip.style.left = `${Math.min(room, Math.max(0, left - tip.offsetWidth / 2))}px`;
  tip.style.top = `${above < 0 ? top + 20 : above}px`;
  return { name, left, top };
}

function hideTip() {
  element("tip").hidden = true;
  element("cross").hidden = true;
  element("spoken").textContent = "";
}

function onPointer(event) {
  const box = stage.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * shown.width);
  const y = Math.floor(((event.clientY - box.top) / box.height) * shown.height);
  element("cross").hidden = true;
  if (x < 0 || y < 0 || x >= shown.width || y >= shown.height) return hideTip();
  cursor = { x, y };
  showTip(cursor);
}

const STEPS = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

function onKey(event) {
  if (event.key === "Escape") hideTip();
  if (!(event.key in STEPS)) return;
  event.preventDefault();
  const [right, down] = STEPS[event.key];
  const { width, height } = shown;
  const step = Math.ceil(Math.max(width, height) / (event.shiftKey ? 20 : 200));
  const from = cursor ?? { x: width >> 1, y: height >> 1 };
  cursor = {
    x: Math.min(width - 1, Math.max(0, from.x + right * step)),
    y: Math.min(height - 1, Math.max(0, from.y + down * step)),
  };
  const { name, left, top } = showTip(cursor);
  const cross = element("cross");
  cross.style.left = `${left}px`;
  cross.style.top = `${top}px`;
  cross.hidden = false;
  element("spoken").textContent = `${name}, ${cursor.x} across, ${cursor.y} down`;
}

// ---- Saving ------------------------------------------------------------------------

function save(content, suffix) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = `${shown.name.replace(/\.[^.]*$/, "")}_${suffix}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function saveOverlay() {
  const picture = document.createElement("canvas");
  picture.width = shown.width;
  picture.height = shown.height;
  const context = picture.getContext("2d");
  context.drawImage(shown.image, 0, 0, shown.width, shown.height);
  context.globalAlpha = element("opacity").value / 100;
  context.drawImage(canvas, 0, 0);
  context.globalAlpha = Number(element("opacity").value > 0);
  context.drawImage(outlines, 0, 0);
  picture.toBlob((content) => save(content, "overlay"));
}

// ---- Events ------------------------------------------------------------------------

function setOpacity() {
  const value = element("opacity").value;
  canvas.style.opacity = value / 100;
  outlines.style.opacity = Number(value > 0);
  element("opacity-value").textContent = `${value} %`;
}

element("file").addEventListener("change", (event) => {
  addFiles(event.target.files);
  event.target.value = ""; // the same file may be chosen again
});
document.addEventListener("paste", (event) => {
  addShared(event.clipboardData, "pasted");
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  addShared(event.dataTransfer, "dropped");
});
element("dismiss").addEventListener("click", clearErrors);
element("opacity").addEventListener("input", setOpacity);
element("paint-hidden").addEventListener("change", () => {
  paint();
  showLegend();
});
element("save-overlay").addEventListener("click", saveOverlay);
element("save-classes").addEventListener("click", () => {
  save(shown.classesPng, "classes");
});
stage.addEventListener("pointerdown", onPointer);
stage.addEventListener("pointermove", onPointer);
stage.addEventListener("pointerleave", (event) => {
  if (event.pointerType === "mouse") hideTip();
});
stage.addEventListener("keydown", onKey);
stage.addEventListener("blur", hideTip);
window.addEventListener("resize", hideTip);
setOpacity();
