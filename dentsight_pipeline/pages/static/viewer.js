"use strict";
/* What reading and review share: the X-ray with zoom, window and level, and boxes on it; the message; talk with the server. */
const by = (id) => document.getElementById(id);
function say(text, bad = false) { by("message").textContent = text; by("message").className = bad ? "bad" : ""; }
const Xray = (() => {
  let viewer = null, shown = null, boxes = [];

  function open(url, then) {
    if (shown === url) { if (then) then(); return; }
    shown = url;
    if (!viewer) {
      viewer = OpenSeadragon({
        element: by("viewer"), showNavigationControl: false, maxZoomPixelRatio: 8, animationTime: 0.3,
        gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true }, drawer: "canvas",
      });
      viewer.innerTracker.keyHandler = null; /* the page has keys of its own */
      viewer.innerTracker.keyDownHandler = null;
    }
    boxes = [];
    viewer.clearOverlays();
    viewer.addOnceHandler("open", () => { contrast(255, 128); if (then) then(); });
    viewer.open({ type: "image", url, buildPyramid: false });
  }

  function close() { shown = null; boxes = []; if (viewer) { viewer.clearOverlays(); viewer.close(); } }

  /* Boxes as {bbox: [x, y, w, h], kind, label}. */
  function draw(list) {
    bare(false);
    viewer.clearOverlays();
    boxes = list.map((box) => {
      const element = document.createElement("div");
      element.className = `box ${box.kind}`;
      const label = document.createElement("span");
      label.textContent = box.label;
      element.append(label);
      viewer.addOverlay({ element, location: rectangle(box.bbox) });
      return element;
    });
  }

  const rectangle = ([x, y, w, h]) => viewer.world.getItemAt(0).imageToViewportRectangle(x, y, w, h);
  function look([x, y, w, h], around = 4) {
    const side = Math.max(w, h) * around;
    viewer.viewport.fitBounds(rectangle([x + w / 2 - side, y + h / 2 - side / 2, 2 * side, side]));
  }
  function point(x, y) {
    const at = viewer.viewport.pointFromPixel(new OpenSeadragon.Point(x, y));
    return viewer.world.getItemAt(0).viewportToImageCoordinates(at);
  }

  /* While wanted() holds, a drag on the X-ray draws a box: told(bbox, done) as it grows and at its end. */
  function drag(wanted, told) {
    const holder = by("viewer"); let from = null, box = null;
    const at = (event) => { const r = holder.getBoundingClientRect(); return point(event.clientX - r.left, event.clientY - r.top); };
    holder.addEventListener("pointerdown", (event) => { if (wanted()) { from = at(event); box = null; event.preventDefault(); } }, true);
    addEventListener("pointermove", (event) => {
      if (!from || !wanted()) return;
      const to = at(event);
      box = [Math.min(from.x, to.x), Math.min(from.y, to.y), Math.max(1, Math.abs(to.x - from.x)), Math.max(1, Math.abs(to.y - from.y))];
      told(box, false);
    });
    addEventListener("pointerup", () => { if (from && box) told(box, true); from = box = null; });
  }

  function contrast(width, level) {
    by("window").value = width; by("level").value = level;
    const slope = 255 / by("window").value, intercept = 0.5 - (by("level").value / 255) * slope;
    for (const channel of document.querySelectorAll("#window-level feComponentTransfer > *")) {
      channel.setAttribute("slope", slope); channel.setAttribute("intercept", intercept);
    }
  }
  const change = (width, level) => contrast(+by("window").value + width, +by("level").value + level);
  const zoom = (factor) => { if (viewer) viewer.viewport.zoomBy(factor).applyConstraints(); };
  /* A box hides the edge that is to be judged: the X-ray without any. */
  function bare(on) { by("viewer").classList.toggle("bare", on); by("boxes").setAttribute("aria-pressed", !on); }
  const home = () => { if (viewer) viewer.viewport.goHome(); };

  const KEYS = {
    "+": () => zoom(1.5), "-": () => zoom(1 / 1.5), "−": () => zoom(1 / 1.5), "0": home,
    ",": () => change(0, 10), ".": () => change(0, -10), "<": () => change(-20, 0), ">": () => change(20, 0),
    "=": () => contrast(255, 128), v: () => bare(!by("viewer").classList.contains("bare")),
  };
  function key(event) { if (!KEYS[event.key]) return false; KEYS[event.key](); return true; }

  addEventListener("DOMContentLoaded", () => {
    by("zoom-in").onclick = KEYS["+"]; by("zoom-out").onclick = KEYS["-"]; by("zoom-home").onclick = home;
    by("contrast-home").onclick = KEYS["="]; by("boxes").onclick = KEYS.v;
    for (const id of ["window", "level"]) by(id).oninput = () => change(0, 0);
  });

  /* Post to the server and give what it answers; a refusal or a silent server is an Error with a sentence. */
  async function send(path, body) {
    let response;
    try {
      response = await fetch(path, body === undefined ? {} : {
        method: "POST", body: JSON.stringify(body),
        headers: { "Content-Type": "application/json", "X-Dentsight": document.body.dataset.token },
      });
    } catch {
      throw new Error("Not saved: the server does not answer. Start it again and open the new link; what was marked before is kept.");
    }
    const told = await response.json();
    if (!response.ok) throw Object.assign(new Error(told.error), { status: response.status });
    return told;
  }

  /* Show what the server answers, or say why it refuses; what is not in turn any more gives way to what is. */
  async function ask(show, path, body) {
    try { show(await send(path, body)); } catch (error) {
      if (error.status === 409) { try { show(await send("/state")); } catch { /* said below */ } }
      say(error.message, true);
    }
  }
  return { open, close, draw, look, drag, key, ask, get viewer() { return viewer; } };
})();
