"use strict";
/* The review's page: one suspect after the other, by keys. */
let view = null, edited = null, close = true, busy = Promise.resolve();
const QUESTION = { missed: (s) => s.class ? `Nothing is labelled here. Is this: ${s.class}?` : "Nothing is labelled on this image. Is that right?",
  spurious: (s) => `Is this really: ${s.class}?`, class: (s) => s.proposed_class ? `${s.class}, or rather ${s.proposed_class}?` : `Is the name right: ${s.class}?`,
  place: (s) => `Is the place right: ${s.class}?` };
const ACCEPT = { missed: (s) => s.class ? `Yes, add: ${s.class}` : "No, labels are missing", spurious: () => "No, take it away", class: (s) => s.proposed_class ? `It is: ${s.proposed_class}` : "The name is wrong: give the right one", place: () => "Move it to the green box" };

function show(next) {
  const moved = !view || view.position !== next.position;
  view = next;
  by("bar").max = view.total; by("bar").value = view.decided;
  const [wrong, judged] = view.recent;
  by("progress").textContent = `${Math.min(view.position + 1, view.total)} of ${view.total}, ${view.decided} decided${judged > 4 ? `; of the last ${judged} labels ${wrong} were wrong` : ""}`;
  const s = view.suspect;
  by("picture").hidden = by("review").hidden = !s; by("rest").hidden = !!s;
  if (!s) { Xray.close(); by("rest-text").textContent = Object.entries(view.counts).map(([v, n]) => `${n} ${v}`).join(", "); return; }
  if (moved) { stopEditing(); say(""); close = true; }
  by("question").textContent = QUESTION[s.kind](s);
  by("accept-words").textContent = ACCEPT[s.kind](s);
  by("reject").lastChild.textContent = s.kind === "missed" ? " Nothing is missing" : " The label is right";
  const facts = [["Why", s.why], ["Score", s.score.toFixed(2)], ["Kind", s.kind], ["Split", s.split]];
  by("facts").replaceChildren(...facts.flatMap(([name, value]) => [Object.assign(document.createElement("dt"), { textContent: name }), Object.assign(document.createElement("dd"), { textContent: value })]));
  Xray.open(`/image/${view.position}`, () => { boxes(); look(); });
}
function boxes() {
  const s = view.suspect, far = ([x, y, w, h], [a, b, c, d], sides) => Math.abs(x + w / 2 - a - c / 2) > sides * (w + c) || Math.abs(y + h / 2 - b - d / 2) > sides * (h + d);
  const near = view.neighbours.filter((n) => n.bbox.join() !== s.bbox.join() && !far(s.bbox, n.bbox, 3)).map((n) => ({ bbox: n.bbox, kind: "neighbour", label: far(s.bbox, n.bbox, 0.5) ? "" : n.name }));
  const own = s.class ? [{ bbox: s.bbox, kind: "suspect", label: s.kind === "missed" ? `${s.class}?` : s.class }] : [];
  const better = edited ? [{ bbox: edited, kind: "drawn", label: by("class").value }] : s.proposed_bbox ? [{ bbox: s.proposed_bbox, kind: "drawn", label: s.class }] : [];
  Xray.draw([...near, ...own, ...better]);
}
function look() { if (close && view.suspect.class) Xray.look(view.suspect.bbox); else Xray.viewer.viewport.goHome(); }

function tell(path, body) {
  const position = view && view.position;
  busy = busy.then(async () => {
    if (body && body.verb !== "undo" && view.position !== position) return say("Not taken: that key came before this suspect was shown.", true);
    await Xray.ask(show, path, body);
  });
  return busy;
}
const decide = (verb, more = {}) => tell("/decide", { position: view.position, verb, ...more });

function edit() {
  const s = view.suspect;
  edited = [...(s.proposed_bbox || s.bbox)];
  by("class").replaceChildren(...view.classes.map((name) => Object.assign(document.createElement("option"), { textContent: name })));
  by("class").value = s.proposed_class || s.class || view.classes[0];
  by("class").onchange = boxes;
  by("editor").hidden = false;
  Xray.viewer.setMouseNavEnabled(false);
  boxes();
  document.activeElement.blur();
}
function stopEditing() { edited = null; by("editor").hidden = true; if (Xray.viewer) Xray.viewer.setMouseNavEnabled(true); }
const save = () => decide("edit", { class_name: by("class").value, bbox: edited.map((n) => Math.round(n * 100) / 100) });
function nudge(event) {
  const step = Math.max(1, Math.min(...edited.slice(2)) / 20), at = event.shiftKey ? 2 : 0;
  const [axis, sign] = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, -1], ArrowDown: [1, 1] }[event.key];
  edited[at + axis] = Math.max(at ? 1 : 0, edited[at + axis] + sign * step);
  boxes();
}
/* A wrong name for which there is no better one: accepted alone it would change nothing. */
const accept = () => (view.suspect.kind === "class" && !view.suspect.proposed_class ? edit() : decide("accept"));
const KEYS = { a: accept, r: () => decide("reject"), s: () => decide("skip"), u: () => decide("undo"), e: edit, f: () => { close = !close; look(); } };

addEventListener("keydown", (event) => {
  if (!view || event.ctrlKey || event.metaKey || event.altKey) return;
  if (edited) {
    if (event.key === "Enter") save();
    else if (event.key === "Escape") { stopEditing(); boxes(); }
    else if (event.key.startsWith("Arrow")) nudge(event);
    else return;
  } else if (event.target.matches("input") || (event.key === "Enter" && event.target.matches("button"))) return;
  else if (event.key === "u" || (view.suspect && KEYS[event.key])) KEYS[event.key]();
  else if (!Xray.key(event)) return;
  event.preventDefault();
});
addEventListener("DOMContentLoaded", () => {
  for (const [id, run] of Object.entries({ accept: KEYS.a, reject: KEYS.r, skip: KEYS.s, undo: KEYS.u, edit, save, closer: KEYS.f, cancel: () => { stopEditing(); boxes(); } })) by(id).onclick = run;
  Xray.drag(() => edited, (box) => { edited = box; boxes(); });
  tell("/state");
  addEventListener("focus", () => { if (view && !edited) tell("/state"); });
});
