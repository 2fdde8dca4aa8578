// The review page: one find a screen. Pictures come as HU and are windowed here, so that a window costs no request.
"use strict";

const WINDOWS = { 1: [-1350, 150], 2: [-160, 240], 3: [-450, 1050], 4: [-30, 170] };
const ANSWERS = { ArrowRight: "accepted", ArrowLeft: "rejected", "?": "unsure" };
const AHEAD = 3; // pictures that are fetched before they are asked for
const GRIP = 9; // pixels from a line of the box within which it is held

const by = (id) => document.getElementById(id);
const view = { screen: 0, screens: 0, next: 0, picture: null, z: 0, low: -160, high: 240, boxes: true, edit: null, note: "", playing: 0 };
const kept = new Map();
const timing = { keyed: 0, shown: [] }; // milliseconds from key to next picture, for whoever measures
window.reviewTiming = timing;

async function ask(path, body) {
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  const answer = await fetch(path, options);
  if (!answer.ok) {
    const text = await answer.text();
    let said = text;
    try { said = JSON.parse(text).error; } catch { /* plain text */ }
    throw new Error(said || `the server answered ${answer.status}`);
  }
  return answer;
}

function fetchPicture(screen) {
  if (screen < 0 || screen >= view.screens) return null;
  if (!kept.has(screen)) {
    kept.set(screen, ask(`/picture/${screen}`).then((answer) => answer.arrayBuffer()).then(unpack));
    kept.get(screen).catch(() => kept.delete(screen));
  }
  return kept.get(screen);
}

function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const [depth, rows, columns] = head.shape;
  const hu = new Int16Array(buffer.slice(4 + length)); // aligned by the copy
  const boxes = new Map(head.boxes.map(([z, ...box]) => [z, box]));
  const marks = new Map();
  for (const [z, ...box] of head.marks) marks.set(z, [...(marks.get(z) || []), box]);
  return { ...head, depth, rows, columns, hu, boxes, marks };
}

async function show(screen) {
  view.screen = screen;
  view.edit = null;
  stop();
  for (const at of kept.keys()) if (at < screen - 2 || at > screen + AHEAD) kept.delete(at);
  if (screen >= view.screens) {
    view.picture = null;
    by("slice").textContent = "All finds of the deck are read.";
    draw();
    return;
  }
  try {
    const picture = await fetchPicture(screen);
    if (view.screen !== screen) return; // another one was asked for meanwhile
    view.picture = picture;
    view.z = picture.first;
    [view.low, view.high] = WINDOWS[inAir(picture) ? 1 : 2];
    draw();
    if (timing.keyed) timing.shown.push(performance.now() - timing.keyed);
    timing.keyed = 0;
    by("error").textContent = "";
  } catch (error) {
    by("error").textContent = error.message;
  }
  for (let ahead = 1; ahead <= AHEAD; ahead += 1) fetchPicture(screen + ahead);
}

function tell(state) {
  view.screens = state.screens;
  view.next = state.screen;
  by("where").textContent = `${state.read} of ${state.screens} read`;
  by("words").textContent = state.words;
  by("progress").value = state.screens ? state.read / state.screens : 1;
  if (state.can_certify !== undefined) view.canCertify = state.can_certify;
  by("certify").hidden = !(view.canCertify && state.proven);
}

async function answer(verdict, boxes) {
  const screen = view.screen;
  if (!view.picture || screen >= view.screens) return;
  const body = { screen, verdict, note: view.note };
  if (boxes) body.boxes = boxes;
  view.note = "";
  timing.keyed = performance.now();
  const guess = screen === view.next ? screen + 1 : view.next;
  const showing = show(guess);
  try {
    const state = await (await ask("/verdict", body)).json();
    kept.delete(screen);
    tell(state);
    await showing;
    if (view.screen === guess && state.screen !== guess) await show(state.screen);
  } catch (error) {
    await show(screen);
    by("error").textContent = `not kept: ${error.message}`;
  }
}

async function undo() {
  try {
    const state = await (await ask("/undo", {})).json();
    tell(state);
    kept.delete(state.screen);
    await show(state.screen);
  } catch (error) {
    by("error").textContent = error.message;
  }
}

async function certify() {
  by("certify").disabled = true;
  try {
    by("words").textContent = (await (await ask("/certify", {})).json()).words;
  } catch (error) {
    by("error").textContent = error.message;
  }
  by("certify").disabled = false;
}

function inAir(picture) {
  // Whether most of the box and a rim half as wide is lung or air.
  const [x1, y1, x2, y2] = picture.boxes.get(picture.first);
  const rimX = (x2 - x1 + 1) / 2, rimY = (y2 - y1 + 1) / 2;
  let air = 0, all = 0;
  for (let y = Math.max(0, Math.round(y1 - rimY)); y <= Math.min(picture.rows - 1, y2 + rimY); y += 1) {
    for (let x = Math.max(0, Math.round(x1 - rimX)); x <= Math.min(picture.columns - 1, x2 + rimX); x += 1) {
      air += picture.hu[(picture.first * picture.rows + y) * picture.columns + x] < -500;
      all += 1;
    }
  }
  return air > all / 2;
}

// Drawing

function plane(picture, kind) {
  // A grey image through the find: its width, height, and the size of a pixel in mm.
  const { depth, rows, columns, hu, spacing_mm: [dz, dy, dx] } = picture;
  const [, x1, y1, x2, y2] = [0, ...(picture.boxes.get(picture.first))];
  const row = Math.min(rows - 1, Math.max(0, Math.round((y1 + y2) / 2)));
  const column = Math.min(columns - 1, Math.max(0, Math.round((x1 + x2) / 2)));
  const z = view.z;
  const kinds = {
    axial: [columns, rows, dx, dy, (x, y) => (z * rows + y) * columns + x],
    coronal: [columns, depth, dx, dz, (x, y) => ((depth - 1 - y) * rows + row) * columns + x],
    sagittal: [rows, depth, dy, dz, (x, y) => ((depth - 1 - y) * rows + x) * columns + column],
  };
  const [width, height, across, down, at] = kinds[kind];
  const image = new ImageData(width, height);
  const scale = 255 / (view.high - view.low);
  for (let y = 0, i = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1, i += 4) {
      const grey = (hu[at(x, y)] - view.low) * scale;
      image.data[i] = image.data[i + 1] = image.data[i + 2] = grey;
      image.data[i + 3] = 255;
    }
  }
  return { image, width, height, across, down };
}

const offscreen = document.createElement("canvas");

function paint(canvas, kind) {
  const context = canvas.getContext("2d");
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, canvas.clientWidth * ratio);
  canvas.height = Math.max(1, canvas.clientHeight * ratio);
  if (!view.picture) return null;
  const { image, width, height, across, down } = plane(view.picture, kind);
  offscreen.width = width;
  offscreen.height = height;
  offscreen.getContext("2d").putImageData(image, 0, 0);
  const mm = Math.min(canvas.width / (width * across), canvas.height / (height * down));
  const place = { sx: across * mm, sy: down * mm };
  place.left = (canvas.width - width * place.sx) / 2;
  place.top = (canvas.height - height * place.sy) / 2;
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(offscreen, place.left, place.top, width * place.sx, height * place.sy);
  return { context, place, height };
}

function rectangle({ context, place }, [x1, y1, x2, y2], colour, dashed) {
  context.strokeStyle = colour;
  context.lineWidth = 2;
  context.setLineDash(dashed ? [6, 4] : []);
  context.strokeRect(
    place.left + x1 * place.sx, place.top + y1 * place.sy, (x2 - x1 + 1) * place.sx, (y2 - y1 + 1) * place.sy);
}

function draw() {
  const axial = paint(by("axial"), "axial");
  const picture = view.picture;
  view.place = axial && axial.place;
  if (axial && view.boxes) {
    const style = getComputedStyle(document.documentElement);
    const yellow = style.getPropertyValue("--yellow"), green = style.getPropertyValue("--green");
    for (const box of picture.marks.get(view.z) || []) rectangle(axial, box, green, false);
    if (view.edit && view.edit.z === view.z) rectangle(axial, view.edit.box, yellow, true);
    else if (picture.boxes.has(view.z)) rectangle(axial, picture.boxes.get(view.z), yellow, false);
  }
  for (const kind of ["coronal", "sagittal"]) {
    const strip = paint(by(kind), kind);
    if (!strip) continue;
    const { context, place, height } = strip;
    context.strokeStyle = "#9aa4ad";
    context.setLineDash([4, 4]);
    const y = place.top + (height - view.z - 0.5) * place.sy;
    context.beginPath();
    context.moveTo(0, y);
    context.lineTo(context.canvas.width, y);
    context.stroke();
  }
  if (picture) {
    const zs = [...picture.boxes.keys()];
    by("slice").textContent =
      `slice ${view.z + 1} of ${picture.depth}, the find on ${Math.min(...zs) + 1} to ${Math.max(...zs) + 1}; ` +
      `window ${Math.round(view.low)} to ${Math.round(view.high)} HU` + (view.edit ? "; drag the box, Enter keeps it" : "");
  }
}

function scroll(steps) {
  if (!view.picture || view.edit) return;
  view.z = Math.min(view.picture.depth - 1, Math.max(0, view.z + steps));
  draw();
}

function stop() {
  clearInterval(view.playing);
  view.playing = 0;
}

function play() {
  if (view.playing) return stop();
  if (!view.picture) return undefined;
  const zs = [...view.picture.boxes.keys()];
  const first = Math.max(0, Math.min(...zs) - 2), last = Math.min(view.picture.depth - 1, Math.max(...zs) + 2);
  view.playing = setInterval(() => {
    view.z = view.z >= last || view.z < first ? first : view.z + 1;
    draw();
  }, 120);
  return undefined;
}

// The box that is off

function edit() {
  if (!view.picture) return;
  const zs = [...view.picture.boxes.keys()];
  const z = zs.reduce((best, each) => (Math.abs(each - view.z) < Math.abs(best - view.z) ? each : best));
  view.edit = { z: view.picture.boxes.has(view.z) ? view.z : z, box: [...view.picture.boxes.get(z)] };
  view.z = view.edit.z;
  view.boxes = true;
  stop();
  draw();
}

function keepBox() {
  const { z, box } = view.edit;
  const { columns, rows } = view.picture;
  const clip = (value, size) => Math.min(size - 0.5, Math.max(-0.5, value));
  const [x1, y1, x2, y2] = box.map((value, side) => clip(value, side % 2 ? rows : columns));
  answer("moved", [[z, Math.min(x1, x2), Math.min(y1, y2), Math.max(x1, x2), Math.max(y1, y2)]]);
}

function point(event) {
  // Voxels, of which whole numbers are the middles.
  const ratio = window.devicePixelRatio || 1, { place } = view;
  return [(event.offsetX * ratio - place.left) / place.sx - 0.5, (event.offsetY * ratio - place.top) / place.sy - 0.5];
}

function grip([x, y]) {
  const { box } = view.edit, near = GRIP * (window.devicePixelRatio || 1);
  const edge = [box[0] - 0.5, box[1] - 0.5, box[2] + 0.5, box[3] + 0.5];
  const held = edge.map((value, side) => Math.abs(value - (side % 2 ? y : x)) * (side % 2 ? view.place.sy : view.place.sx) < near);
  if (held[0] && held[2]) held[0] = false;
  if (held[1] && held[3]) held[1] = false;
  const inside = x > edge[0] && x < edge[2] && y > edge[1] && y < edge[3];
  return held.some(Boolean) ? held : [inside, inside, inside, inside];
}

function drag(event) {
  const canvas = by("axial");
  if (!view.picture) return;
  canvas.focus();
  canvas.setPointerCapture(event.pointerId);
  const start = { x: event.offsetX, y: event.offsetY, z: view.z, low: view.low, high: view.high };
  const windowing = event.button === 2;
  const moving = view.edit && !windowing ? { held: grip(point(event)), from: point(event), box: [...view.edit.box] } : null;
  const move = (next) => {
    if (moving) {
      const [x, y] = point(next);
      const by_ = [x - moving.from[0], y - moving.from[1]];
      view.edit.box = moving.held.some(Boolean)
        ? moving.box.map((value, side) => (moving.held[side] ? value + by_[side % 2] : value))
        : [Math.min(x, moving.from[0]), Math.min(y, moving.from[1]), Math.max(x, moving.from[0]), Math.max(y, moving.from[1])];
      draw();
    } else if (windowing) {
      const level = (start.low + start.high) / 2 + 2 * (next.offsetY - start.y);
      const width = Math.max(10, start.high - start.low + 4 * (next.offsetX - start.x));
      [view.low, view.high] = [level - width / 2, level + width / 2];
      draw();
    } else {
      view.z = start.z;
      scroll(Math.round((start.y - next.offsetY) / 12));
    }
  };
  const end = () => {
    canvas.removeEventListener("pointermove", move);
    if (moving) {
      const [a, b, c, d] = view.edit.box;
      view.edit.box = [Math.min(a, c), Math.min(b, d), Math.max(a, c), Math.max(b, d)];
    }
  };
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", end, { once: true });
  canvas.addEventListener("pointercancel", end, { once: true });
}

function press(key) {
  if (view.edit && key === "Enter") return keepBox();
  if (view.edit && key === "Escape") { view.edit = null; return draw(); }
  if (key === "z") return undo();
  if (key === "b") return view.edit ? keepBox() : edit();
  if (key === "h") { view.boxes = !view.boxes; return draw(); }
  if (key === " ") return play();
  if (key === "n") { view.note = prompt("A note on this find, kept with its verdict:", view.note) ?? view.note; return undefined; }
  if (key === "ArrowUp") return scroll(1);
  if (key === "ArrowDown") return scroll(-1);
  if (WINDOWS[key]) { [view.low, view.high] = WINDOWS[key]; return draw(); }
  if (ANSWERS[key] && !view.edit) return answer(ANSWERS[key]);
  return undefined;
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if ([...Object.keys(ANSWERS), "z", "b", "h", " ", "n", "ArrowUp", "ArrowDown", "Enter", "Escape", "1", "2", "3", "4"].includes(event.key)) {
    if (event.key === "Enter" && !view.edit) return; // a button that has the focus
    event.preventDefault();
    if (!event.repeat || event.key.startsWith("Arrow") && event.key !== "ArrowLeft" && event.key !== "ArrowRight") press(event.key);
  }
});
for (const button of document.querySelectorAll("[data-key]")) {
  button.addEventListener("click", () => { press(button.dataset.key); button.blur(); });
}
by("certify").addEventListener("click", certify);
by("axial").addEventListener("pointerdown", drag);
by("axial").addEventListener("contextmenu", (event) => event.preventDefault());
by("axial").addEventListener("wheel", (event) => { event.preventDefault(); scroll(event.deltaY > 0 ? -1 : 1); }, { passive: false });
addEventListener("resize", draw);

ask("/state").then((answer_) => answer_.json()).then((state) => { tell(state); return show(state.screen); })
  .catch((error) => { by("error").textContent = error.message; });
