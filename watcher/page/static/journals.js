// The journals that are known now: held and refused ones first.

import { el, keyed, mark, say } from "./dom.js";
import { badge, moment, name, setBadge, setMoment, testimony } from "./parts.js";

const RANKS = { held: 0, refused: 1, stuck: 2, hot: 3, waiting: 4, cold: 5 };
const STEP = 50;

let shown = STEP;

export function rank(standing) {
  return RANKS[standing] ?? 6;
}

/** Journals in the order in which they want a person: those that last longest first. */
export function byUrgency(journals) {
  return [...journals].sort(([, a], [, b]) => rank(a.standing) - rank(b.standing) || a.since - b.since);
}

export function renderJournals(state) {
  const list = document.getElementById("journal-list");
  const all = byUrgency(state.journals);
  keyed(list, all.slice(0, shown), ([key]) => key, make, update);
  document.getElementById("journals-empty").hidden = all.length > 0;
  list.hidden = all.length === 0;
  const more = moreButton(list, state);
  more.hidden = all.length <= shown;
  say(more, `Show ${Math.min(STEP, all.length - shown)} more of ${all.length}`);
}

function moreButton(list, state) {
  let more = document.getElementById("more-journals");
  if (more === null) {
    more = el("button", { type: "button", class: "more", id: "more-journals" });
    more.addEventListener("click", () => {
      shown += STEP;
      renderJournals(state);
    });
    list.after(more);
  }
  return more;
}

function make([, row]) {
  const item = el("li", { class: "journal" });
  const parts = {
    badge: badge(row.standing),
    age: moment("for", row.since),
    why: el("span", { class: "why" }),
    body: el("div", { class: "body" }),
  };
  const age = el("span", { class: "age" }, parts.age);
  item.append(el("details", {}, el("summary", {}, parts.badge, " ", name(row), " ", age, parts.why), parts.body));
  item.parts = parts;
  return item;
}

function update(item, [, row]) {
  if (item.row === row) return;
  item.row = row;
  mark(item, "data-standing", row.standing);
  setBadge(item.parts.badge, row.standing);
  setMoment(item.parts.age, row.since);
  say(item.parts.why, row.why);
  item.parts.body.replaceChildren(...testimony(row));
}
