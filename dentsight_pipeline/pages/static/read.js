"use strict";
/* The reader study's page: shows what the server says, and tells it every mark. */
const ROWS = [["18", "17", "16", "15", "14", "13", "12", "11", "21", "22", "23", "24", "25", "26", "27", "28"],
  ["48", "47", "46", "45", "44", "43", "42", "41", "31", "32", "33", "34", "35", "36", "37", "38"]];
let view = null, tooth = "18", digits = "", sure = null, aim = null, busy = Promise.resolve();

const has = (t, c) => view.marks.some(([tooth, condition]) => tooth === t && condition === c);

function show(next) {
  const moved = !view || view.position !== next.position || view.state !== next.state;
  view = next;
  by("bar").max = view.total; by("bar").value = view.position;
  const session = view.sessions > 1 ? `session ${view.session} of ${view.sessions}, ` : "";
  by("progress").textContent = view.state === "reading" ? `${session}image ${view.position + 1} of ${view.total}` : `${view.position} of ${view.total} read`;
  const reading = view.state === "reading";
  by("picture").hidden = by("form").hidden = !reading;
  by("rest").hidden = reading;
  if (!reading) return rest();
  by("arm").textContent = view.arm === "aided" ? "With the model's findings. They can be wrong." : view.sessions > 1 ? "Without the model." : "";
  if (moved) { tooth = "18"; sure = aim = null; say(""); by("box").setAttribute("aria-pressed", false); }
  Xray.open(`/image/${view.position}`, boxes);
  paint();
}
function rest() {
  Xray.close();
  by("rest-title").textContent = view.state === "done" ? "All images are read. Thank you." : "Time for a pause";
  by("rest-text").textContent = view.state === "done" ? "Nothing more is needed; this page can be closed."
    : `The second session begins in ${view.wait_hours} hours, so that the first is forgotten. Load this page again then.`;
}
function boxes(growing = null) {
  const model = view.model.map((found) => ({ bbox: found.bbox_xywh_px, kind: "model",
    label: `${found.condition} ${found.teeth.join(" ")} ${found.score.toFixed(2)}` }));
  const own = view.marks.filter(([t, c, bbox]) => bbox && !(aim && aim[0] === t && aim[1] === c)).map(([t, c, bbox]) => ({ bbox, kind: "drawn", label: `${t} ${c}` }));
  Xray.draw([...model, ...own, ...(growing ? [{ bbox: growing, kind: "drawn", label: `${aim[0]} ${aim[1]}` }] : [])]);
}
/* A box is optional: it belongs to the finding that was marked last on this tooth. */
function aimed(on) {
  const last = view.marks.filter(([t]) => t === tooth).pop();
  aim = on && last ? last : null;
  if (on && !last) say(`Mark a finding of tooth ${tooth} first; then draw its box.`);
  else say(aim ? `Draw the box of ${aim[0]} ${aim[1]} on the X-ray, or press Esc.` : "");
  Xray.viewer.setMouseNavEnabled(!aim);
  by("box").setAttribute("aria-pressed", !!aim);
  boxes();
}
function drawn(box, done) {
  if (!done) return boxes(box);
  const [t, condition] = aim;
  tell("/mark", () => ({ position: view.position, tooth: t, condition, present: true, bbox: box.map((n) => Math.round(n * 100) / 100) }));
  aimed(false);
}
function paint() {
  for (const button of document.querySelectorAll(".tooth")) {
    const own = view.marks.filter(([t]) => t === button.dataset.tooth).map(([, c]) => c);
    button.classList.toggle("marked", own.length > 0);
    button.setAttribute("aria-pressed", button.dataset.tooth === tooth);
    button.setAttribute("aria-label", `tooth ${button.dataset.tooth}: ${own.join(", ") || "nothing marked"}`);
  }
  by("tooth").textContent = tooth;
  by("conditions").replaceChildren(...view.conditions.map(({ name, key }) => {
    const button = document.createElement("button");
    button.type = "button"; button.className = "condition"; button.dataset.condition = name;
    button.setAttribute("aria-pressed", has(tooth, name));
    const letter = document.createElement("kbd");
    letter.textContent = key;
    button.append(letter, ` ${name}`);
    button.onclick = () => mark(name);
    return button;
  }));
  by("marks").replaceChildren(...view.marks.map(([t, c]) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.type = "button"; button.textContent = `${t} ${c}`; button.title = "go to this tooth";
    button.onclick = () => choose(t);
    item.append(button);
    return item;
  }));
  if (!view.marks.length) by("marks").textContent = "nothing yet";
}
function choose(t) { tooth = t; sure = null; say(""); paint(); }
function move(across, down) {
  const row = ROWS.findIndex((teeth) => teeth.includes(tooth)), place = ROWS[row].indexOf(tooth);
  choose(ROWS[Math.min(1, Math.max(0, row + down))][(place + across + 16) % 16]);
}

/* One request after the other, each made when its turn comes: a quick hand's second key must see what the first one did. */
function tell(path, make) {
  const position = view && view.position;
  busy = busy.then(async () => {
    if (view && view.position !== position) return say("Not taken: that key came before this image was shown.", true);
    const body = make && make();
    if (body === null) return;
    await Xray.ask(show, path, body);
  });
  return busy;
}
function mark(name, on = tooth) {
  return tell("/mark", () => {
    sure = null; say("");
    return { position: view.position, tooth: on, condition: name, present: !has(on, name) };
  });
}
function finish(readable) {
  return tell("/finish", () => {
    const question = !readable ? "Leave this image out as unreadable? Do the same again." :
      view.marks.length ? null : "Nothing is marked. Do the same again to say: no findings.";
    if (question && sure !== question) { sure = question; say(question); return null; }
    sure = null;
    return { position: view.position, readable };
  });
}

addEventListener("keydown", (event) => {
  if (!view || view.state !== "reading" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, summary") || (event.key === "Enter" && event.target.matches("button"))) return;
  const letter = view.conditions.find(({ key }) => key && key === event.key.toLowerCase());
  if (/^[1-8]$/.test(event.key)) {
    digits = (digits + event.key).slice(-2);
    if (/^[1-4][1-8]$/.test(digits)) { choose(digits); digits = ""; }
  } else if (event.key === "ArrowLeft") move(-1, 0);
  else if (event.key === "ArrowRight") move(1, 0);
  else if (event.key === "ArrowUp") move(0, -1);
  else if (event.key === "ArrowDown") move(0, 1);
  else if (event.key === "/") aimed(!aim);
  else if (event.key === "Escape" && aim) aimed(false);
  else if (event.key === "Enter") finish(true);
  else if (event.key === "x") finish(false);
  else if (letter) mark(letter.name);
  else if (!Xray.key(event)) return;
  event.preventDefault();
});
addEventListener("DOMContentLoaded", () => {
  for (const button of document.querySelectorAll(".tooth")) button.onclick = () => choose(button.dataset.tooth);
  by("finish").onclick = () => finish(true);
  by("unreadable").onclick = () => finish(false);
  by("box").onclick = () => aimed(!aim);
  Xray.drag(() => aim, drawn);
  tell("/state");
  addEventListener("focus", () => { if (view && !aim) tell("/state"); });
});
