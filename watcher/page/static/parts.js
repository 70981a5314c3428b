// What is shown in more than one place.

import { el, mark, say } from "./dom.js";
import { ago, full, now, size, span } from "./figures.js";

/** How a journal stands, what a probe says, what became of it: always a word, never a colour alone. */
export function badge(word) {
  return el("span", { class: "badge", "data-standing": word }, word);
}

export function setBadge(element, word) {
  say(element, word);
  mark(element, "data-standing", word);
  element.hidden = word === "";
}

/** A database by its session and name, kept apart from the text around it, whichever way it is written. */
export function name(row) {
  const session = row.session === "" ? null : el("span", { class: "session" }, `${row.session}/`);
  return el("bdi", { class: "name" }, session, row.name);
}

/** A moment that grows older; `tick` keeps all of them right. */
export function moment(kind, at) {
  const element = el("time", { "data-age": kind });
  setMoment(element, at);
  return element;
}

const WORDS = { ago, for: (at) => `for ${span(now() - at)}`, up: (at) => `up ${span(now() - at)}` };

export function setMoment(element, at) {
  if (element.at !== at) {
    element.at = at;
    element.dateTime = new Date(at * 1000).toISOString();
    element.title = full(at);
  }
  say(element, WORDS[element.dataset.age](at));
}

export function tick() {
  for (const element of document.querySelectorAll("time[data-age]")) setMoment(element, element.at);
}

/** All that is known of one journal: what each probe says, what it is, and what a person may do. */
export function testimony(row) {
  const parts = [];
  if (row.owner !== null) {
    const lines = row.owner.evidence.map((each) =>
      el("tr", {}, el("th", { scope: "row" }, each.probe), el("td", {}, badge(each.verdict)), el("td", {}, each.detail)),
    );
    const heads = ["Probe", "Says", "Why"].map((word) => el("th", { scope: "col" }, word));
    parts.push(
      el("table", { class: "testimony" },
        el("caption", { class: "unseen" }, "What each probe says"),
        el("thead", {}, el("tr", {}, ...heads)),
        el("tbody", {}, ...lines)),
    );
  }
  parts.push(el("p", { class: "small" }, `A ${row.state} journal of ${size(row.size)} beside `, el("bdi", { class: "name" }, row.path), "."));
  if (row.by_hand !== "") parts.push(el("p", {}, el("strong", {}, "By hand. "), row.by_hand));
  return parts;
}
