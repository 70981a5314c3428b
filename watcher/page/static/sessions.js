// All sessions: a list that can be searched and filtered, and the details of one.

import { el, keyed, mark, say } from "./dom.js";
import { count, counted, epoch } from "./figures.js";
import { byUrgency, rank } from "./journals.js";
import { badge, moment, setBadge, setMoment, testimony } from "./parts.js";
import { duration, line } from "./recoveries.js";

const STEP = 100;
const FILTERS = [
  ["all", "All"],
  ["person", "Held or refused"],
  ["hot", "Hot"],
  ["waiting", "Waiting"],
  ["recovered", "Recovered"],
];
const KINDS = { held: "person", refused: "person", stuck: "person", hot: "hot", waiting: "waiting" };

let shown = STEP;
let filter = "all";
let opened = null;
let listed = null;
let known = null;

const byId = (id) => document.getElementById(id);

/** Wire the tools up, once. */
export function prepareSessions(state) {
  byId("tools").hidden = false;
  for (const [word, text] of FILTERS) {
    const button = el("button", { type: "button", "aria-pressed": word === filter ? "true" : "false", "data-filter": word }, text);
    button.addEventListener("click", () => {
      filter = word;
      shown = STEP;
      for (const each of byId("filters").children) each.setAttribute("aria-pressed", String(each === button));
      renderSessions(state);
    });
    byId("filters").append(button);
  }
  byId("search").addEventListener("input", () => {
    shown = STEP;
    renderSessions(state);
  });
  byId("more-sessions").addEventListener("click", () => {
    shown += 2 * STEP;
    renderSessions(state);
  });
  const body = document.querySelector("#session-table tbody");
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    if (row !== null && row.session !== undefined) open(state, row.session, row.querySelector("button"));
  });
  const detail = byId("detail");
  detail.addEventListener("close", () => {
    opened = null;
    detail.replaceChildren();
  });
  detail.addEventListener("click", (event) => {
    if (event.target === detail) detail.close(); // the backdrop
  });
  document.addEventListener("keydown", (event) => pressed(event));
}

/** How each session stands, and when it was last recovered. */
function index(state) {
  const standings = new Map();
  const recovered = new Map();
  for (const row of state.journals.values()) {
    const before = standings.get(row.session);
    if (before === undefined || rank(row.standing) < rank(before)) standings.set(row.session, row.standing);
  }
  for (const row of state.recoveries) {
    if (row.outcome === "recovered" && !recovered.has(row.session)) recovered.set(row.session, row);
  }
  return { standings, recovered };
}

export function renderSessions(state) {
  const { standings, recovered } = index(state);
  const wanted = byId("search").value.trim().toLowerCase();
  const first = [];
  const rest = [];
  if (listed !== state.sessions) {
    listed = state.sessions;
    known = new Set(listed);
  }
  const unlisted = [...standings.keys()].filter((session) => !known.has(session));
  let matching = 0;
  for (const session of unlisted.length > 0 ? [...unlisted, ...state.sessions] : state.sessions) {
    const standing = standings.get(session);
    if (filter === "recovered" ? !recovered.has(session) : filter !== "all" && KINDS[standing] !== filter) continue;
    if (wanted !== "" && !session.toLowerCase().includes(wanted)) continue;
    matching += 1;
    if (standing !== undefined) first.push(session);
    else if (rest.length < shown) rest.push(session);
  }
  first.sort((a, b) => rank(standings.get(a)) - rank(standings.get(b)) || (a < b ? -1 : 1));
  const items = first.concat(rest).slice(0, shown).map((session) => ({
    session,
    standing: standings.get(session) ?? "",
    recovered: recovered.get(session),
  }));
  keyed(document.querySelector("#session-table tbody"), items, (item) => item.session, make, update);
  byId("session-table").hidden = items.length === 0;
  say(byId("found"), found(matching, items.length, state));
  const more = byId("more-sessions");
  more.hidden = matching <= shown;
  say(more, `Show ${count(Math.min(2 * STEP, matching - shown))} more`);
  if (opened !== null) fill(state);
}

function found(matching, shownNow, state) {
  const total = state.service.sessions;
  const beyond = total > state.sessions.length ? ` Only ${count(state.sessions.length)} of ${count(total)} sessions can be found here.` : "";
  if (matching === 0) return `No session matches.${beyond}`;
  if (shownNow < matching) return `${count(shownNow)} of ${counted(matching, "session")}.${beyond}`;
  return `${counted(matching, "session")}.${beyond}`;
}

function make(item) {
  const row = el("tr");
  row.session = item.session;
  row.badge = badge("");
  row.when = el("span");
  row.append(
    el("td", {}, el("button", { type: "button", class: "open" }, el("bdi", { class: "name" }, item.session === "" ? "(the root)" : item.session))),
    el("td", {}, row.badge),
    el("td", { class: "wide" }, row.when));
  return row;
}

function update(row, item) {
  setBadge(row.badge, item.standing);
  if (row.last === item.recovered) return;
  row.last = item.recovered;
  const last = item.recovered;
  row.when.replaceChildren(...(last === undefined ? [] : [moment("ago", epoch(last.time)), `, in ${duration(last)}`]));
}

// --- the details of one ---

function open(state, session, from) {
  opened = session;
  const detail = byId("detail");
  from?.focus();
  fill(state);
  detail.showModal();
}

function fill(state) {
  const detail = byId("detail");
  const journals = byUrgency([...state.journals].filter(([, row]) => row.session === opened));
  const recoveries = state.recoveries.filter((row) => row.session === opened);
  const stamp = JSON.stringify([opened, journals, recoveries.length]);
  if (detail.stamp === stamp && detail.childElementCount > 0) return;
  detail.stamp = stamp;
  const wasFocused = detail.contains(document.activeElement);
  const close = el("button", { type: "button", class: "close", "aria-label": "Close" }, "×");
  close.addEventListener("click", () => detail.close());
  detail.replaceChildren(
    el("header", {}, el("h2", { id: "detail-title" }, el("bdi", { class: "name" }, opened === "" ? "(the root)" : opened)), close),
    ...(journals.length === 0 ? [el("p", { class: "empty" }, "Nothing is hot here.")] : journals.flatMap(journal)),
    el("h3", {}, "What was recovered here"),
    recoveries.length === 0 ? el("p", { class: "empty" }, "Nothing, as far back as this page knows.") : past(recoveries));
  if (wasFocused) close.focus();
}

function journal([, row]) {
  return [
    el("h3", { class: "standing" }, badge(row.standing), " ", el("bdi", { class: "name" }, row.name), " ", el("span", { class: "age" }, moment("for", row.since))),
    el("p", {}, row.why),
    ...testimony(row),
  ];
}

function past(recoveries) {
  const heads = ["When", "Outcome", "Pages", "Took"].map((word) => el("th", { scope: "col", class: word === "Took" ? "figure" : word === "Pages" ? "figure wide" : null }, word));
  return el("table", { class: "recoveries" },
    el("caption", { class: "unseen" }, "The newest first"),
    el("thead", {}, el("tr", {}, ...heads)),
    el("tbody", {}, ...recoveries.slice(0, 50).map((row) => line(row, false))));
}

// --- the keyboard ---

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("detail").open) return;
  const target = event.target;
  const search = byId("search");
  if (event.key === "/" && target !== search) {
    event.preventDefault();
    search.focus();
    search.select();
  } else if (event.key === "Escape" && target === search) {
    if (search.value !== "") {
      search.value = "";
      search.dispatchEvent(new Event("input"));
    } else search.blur();
  } else if (["ArrowDown", "ArrowUp", "Home", "End"].includes(event.key)) {
    const buttons = [...document.querySelectorAll("#session-table button.open")];
    const at = buttons.indexOf(target);
    if (at < 0 && !(target === search && event.key === "ArrowDown")) return;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    event.preventDefault();
    (to < 0 ? search : (buttons[to] ?? buttons[at]))?.focus();
  } else if (event.key === "Enter" && target === search) {
    event.preventDefault(); // or it would press what has the focus then
    document.querySelector("#session-table button.open")?.click();
  }
}
