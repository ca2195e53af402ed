"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const count = data.places.length;
const canvas = document.querySelector(".stage canvas"), pen = canvas.getContext("2d");
const tip = document.querySelector(".tip"), chosenBox = document.getElementById("chosen"), find = document.getElementById("find");
const address = i => "data:image/jpeg;base64," + data.thumbnails[i];
const images = data.thumbnails.map((_, i) => { const image = new Image(); image.onload = paint; image.src = address(i); return image; });
// far apart on the color wheel
const color = label => label === null ? "transparent" : `hsl(${(label * 137.5) % 360} 65% 48%)`;
const withClasses = data.classes.length > 1;
let zoom = 1, center = [0.5, 0.5], chosen = -1, wanted = null, queued = false;

const stretch = () => [canvas.clientWidth * 0.92, canvas.clientHeight * 0.9];
const onScreen = ([x, y]) => { const [w, h] = stretch(); return [(x - center[0]) * w * zoom + canvas.clientWidth / 2, (y - center[1]) * h * zoom + canvas.clientHeight / 2]; };
const side = () => { const free = Math.sqrt(canvas.clientWidth * canvas.clientHeight / count); return Math.max(8, Math.min(160, Math.min(64, free * 0.85) * zoom ** 0.6)); };
const isWanted = i => wanted === null || wanted(i);

function paint() {
  if (queued) return;
  queued = true;
  requestAnimationFrame(() => { queued = false; draw(); });
}

function draw() {
  const ratio = window.devicePixelRatio || 1, [w, h] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(w * ratio) || canvas.height !== Math.round(h * ratio)) {
    canvas.width = Math.round(w * ratio); canvas.height = Math.round(h * ratio);
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, w, h);
  const near = new Set(chosen < 0 ? [] : [chosen, ...data.near[chosen].map(of => of[0])]);
  const ink = getComputedStyle(document.body).color;
  const isFaint = i => chosen >= 0 || !isWanted(i);
  for (let i = 0; i < count; i++) if (!near.has(i) && isFaint(i)) thumbnail(i, 0.18, side(), null);
  for (let i = 0; i < count; i++) if (!near.has(i) && !isFaint(i)) thumbnail(i, 1, side(), null);
  if (chosen < 0) return;
  pen.globalAlpha = 0.6; pen.strokeStyle = ink; pen.lineWidth = 1;
  const [x, y] = onScreen(data.places[chosen]);
  for (const [i] of data.near[chosen]) { const [a, b] = onScreen(data.places[i]); pen.beginPath(); pen.moveTo(x, y); pen.lineTo(a, b); pen.stroke(); }
  for (const i of near) if (i !== chosen) thumbnail(i, 1, Math.max(side(), 28), null);
  thumbnail(chosen, 1, Math.max(side() * 1.4, 44), ink);
}

function thumbnail(i, alpha, size, border) {
  const image = images[i], [x, y] = onScreen(data.places[i]);
  if (!image.complete || !image.naturalWidth || x < -size || y < -size || x > canvas.clientWidth + size || y > canvas.clientHeight + size) return;
  const fit = size / Math.max(image.naturalWidth, image.naturalHeight), w = image.naturalWidth * fit, h = image.naturalHeight * fit;
  pen.globalAlpha = alpha;
  pen.drawImage(image, x - w / 2, y - h / 2, w, h);
  const edge = border || (withClasses ? color(data.labels[i]) : null);
  if (!edge) return;
  pen.strokeStyle = edge; pen.lineWidth = border ? 3 : Math.max(1.5, size / 16);
  pen.strokeRect(x - w / 2, y - h / 2, w, h);
}

// The image under a place of the screen, the one on top.
function under(x, y) {
  const reach = Math.max(side() / 2, 8);
  let best = -1, least = Infinity;
  for (let i = 0; i < count; i++) {
    const [a, b] = onScreen(data.places[i]), far = Math.max(Math.abs(a - x), Math.abs(b - y));
    if (far <= reach && far < least) { least = far; best = i; }
  }
  return best;
}

function element(tag, text, parent) { const made = document.createElement(tag); made.textContent = text; parent.append(made); return made; }

function choose(i) {
  chosen = i;
  chosenBox.replaceChildren();
  if (i >= 0) {
    const image = element("img", "", chosenBox); image.src = address(i); image.alt = data.names[i];
    element("p", data.names[i], chosenBox);
    if (data.labels[i] !== null) element("p", "class " + data.classes[data.labels[i]], chosenBox).className = "faint";
    element("h2", "Nearest images", chosenBox);
    const grid = element("div", "", chosenBox); grid.className = "near";
    for (const [other, similarity] of data.near[i]) {
      const button = element("button", "", grid), small = element("img", "", button);
      small.src = address(other); small.alt = data.names[other]; button.title = data.names[other];
      button.append((similarity / 1000).toFixed(2)); button.onclick = () => choose(other);
    }
  } else element("p", "Click an image to see its nearest neighbors. Drag to move, scroll or pinch to zoom.", chosenBox).className = "faint";
  paint();
}

function zoomBy(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const next = Math.max(0.5, Math.min(60, zoom * factor)), [w, h] = stretch(), from = [x - canvas.clientWidth / 2, y - canvas.clientHeight / 2];
  center[0] += from[0] / w * (1 / zoom - 1 / next); center[1] += from[1] / h * (1 / zoom - 1 / next);
  zoom = next; paint();
}

const held = new Map();
let moved = 0;
const place = event => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
canvas.addEventListener("pointerdown", event => { canvas.setPointerCapture(event.pointerId); held.set(event.pointerId, place(event)); if (held.size === 1) moved = 0; });
canvas.addEventListener("pointermove", event => {
  const now = place(event), before = held.get(event.pointerId);
  if (!before) {
    const i = under(...now); tip.hidden = i < 0;
    if (i >= 0) { tip.textContent = data.names[i]; tip.style.left = Math.min(now[0] + 12, canvas.clientWidth - 180) + "px"; tip.style.top = now[1] + 14 + "px"; }
    return;
  }
  const step = [now[0] - before[0], now[1] - before[1]], [w, h] = stretch();
  moved += Math.abs(step[0]) + Math.abs(step[1]);
  if (held.size === 2) {
    const other = [...held].find(([id]) => id !== event.pointerId)[1], far = p => Math.hypot(p[0] - other[0], p[1] - other[1]);
    zoomBy(far(now) / Math.max(1, far(before)), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  } else { center[0] -= step[0] / w / zoom; center[1] -= step[1] / h / zoom; }
  held.set(event.pointerId, now); paint();
});
const release = event => { const one = held.size === 1; if (held.delete(event.pointerId) && one && moved < 6 && event.type === "pointerup") choose(under(...place(event))); };
canvas.addEventListener("pointerup", release);
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
canvas.addEventListener("wheel", event => { event.preventDefault(); zoomBy(Math.exp(-event.deltaY * 0.0015), ...place(event)); }, { passive: false });
document.addEventListener("keydown", event => { if (event.key === "Escape") choose(-1); });
document.getElementById("in").onclick = () => zoomBy(1.5);
document.getElementById("out").onclick = () => zoomBy(1 / 1.5);
document.getElementById("all").onclick = () => { zoom = 1; center = [0.5, 0.5]; choose(-1); };

let label = -1;
function filter() {
  const text = find.value.trim().toLowerCase();
  const named = i => data.names[i].toLowerCase().includes(text) || (data.labels[i] !== null && data.classes[data.labels[i]].toLowerCase().includes(text));
  wanted = text || label >= 0 ? i => (label < 0 || data.labels[i] === label) && named(i) : null;
  choose(-1);
}
find.oninput = filter;
const buttons = withClasses ? data.classes.map((name, at) => {
  const number = data.labels.filter(of => of === at).length;
  const button = element("button", `${name} ${number}`, document.getElementById("classes"));
  button.style.setProperty("--of", color(at));
  button.onclick = () => { label = label === at ? -1 : at; buttons.forEach((of, i) => of.setAttribute("aria-pressed", i === label)); filter(); };
  return button;
}) : [];
new ResizeObserver(paint).observe(canvas);
paint();
// #12 in the address chooses an image
if (/^#\d+$/.test(location.hash) && +location.hash.slice(1) < count) choose(+location.hash.slice(1));
