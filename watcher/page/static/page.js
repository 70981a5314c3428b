// The page, kept up to date: what the service sends is taken as it comes, and drawn once per frame.

import { mark, say } from "./dom.js";
import { clock, count, epoch, now, setClock, took } from "./figures.js";
import { renderJournals } from "./journals.js";
import { moment, setMoment, tick } from "./parts.js";
import { renderRecoveries } from "./recoveries.js";
import { prepareSessions, renderSessions } from "./sessions.js";
import { renderTimeline } from "./timeline.js";

const MOST_RECOVERIES = 300;
const SILENT_AFTER_MS = 40_000;
const HIDDEN_AFTER_MS = 300_000;
const AGAIN_MS = 2_000;
const TOLD_EVERY_MS = 5_000;

const state = { service: null, journals: new Map(), recoveries: [], sessions: [] };
const byId = (id) => document.getElementById(id);

let source = null;
let heardAt = 0;
let lostAt = null;
let again = null;
let hiding = null;
let isDue = false;

// --- what the service sends ---

function take(change) {
  setClock(change.now);
  if (change.service !== undefined) state.service = change.service;
  for (const [key, row] of Object.entries(change.journals ?? {})) state.journals.set(key, row);
  for (const key of change.gone ?? []) state.journals.delete(key);
  if (change.recoveries !== undefined) {
    state.recoveries = [...change.recoveries, ...state.recoveries]
      .sort((a, b) => (a.time < b.time ? 1 : a.time > b.time ? -1 : b.id - a.id))
      .slice(0, MOST_RECOVERIES);
  }
  if (change.sessions !== undefined) state.sessions = change.sessions;
  if (state.service.version !== document.documentElement.dataset.version) {
    location.reload(); // the service was updated: this is another one's page
    return;
  }
  const wanting = state.service.counts.held + state.service.counts.refused;
  document.title = `${wanting > 0 ? `(${wanting}) ` : ""}${state.service.instance} · journal-watcher`; // also of a tab behind others
  drawSoon();
}

function forget() {
  state.journals.clear();
  state.recoveries = [];
  state.sessions = [];
}

function heard() {
  heardAt = Date.now();
  lostAt = null;
  showLink();
}

// --- the connection ---

function connect() {
  clearTimeout(again);
  again = null;
  source?.close();
  heardAt = Date.now();
  source = new EventSource("events");
  source.addEventListener("all", (event) => {
    forget();
    heard();
    take(JSON.parse(event.data));
  });
  source.addEventListener("change", (event) => {
    heard();
    take(JSON.parse(event.data));
  });
  source.addEventListener("ping", heard);
  source.addEventListener("error", () => {
    lose();
    if (source.readyState === EventSource.CLOSED) again ??= setTimeout(connect, AGAIN_MS);
  });
}

function lose() {
  lostAt ??= Date.now();
  showLink();
}

function showLink() {
  const link = byId("link");
  const isLost = lostAt !== null;
  mark(link, "data-link", isLost ? "lost" : "live");
  mark(document.body, "data-lost", isLost);
  say(link, isLost ? `The service does not answer; this is how it was at ${clock(now() - (Date.now() - heardAt) / 1000)}. Trying again` : "Live");
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(hiding);
  if (document.hidden) {
    hiding = setTimeout(() => {
      source?.close(); // nobody looks: it costs the service nothing then
      source = null;
    }, HIDDEN_AFTER_MS);
  } else if (source === null) connect();
  else drawSoon();
});

setInterval(() => {
  if (document.hidden || source === null) return;
  if (Date.now() - heardAt > SILENT_AFTER_MS) {
    lose();
    connect();
  }
  if (state.service !== null) {
    tick();
    renderTimeline(state);
  }
}, 1000);

// --- drawing ---

function drawSoon() {
  if (isDue || document.hidden) return;
  isDue = true;
  requestAnimationFrame(() => {
    isDue = false;
    draw();
  });
}

function draw() {
  if (state.service === null) return;
  renderService(state.service);
  renderJournals(state);
  renderTimeline(state);
  renderRecoveries(state);
  renderSessions(state);
  document.body.dataset.drawn = "";
}

function renderService(service) {
  say(byId("instance"), service.instance);
  say(byId("tree"), service.tree);
  say(byId("version"), service.version);
  const headline = byId("headline");
  say(headline, service.headline);
  const wants = service.counts.held + service.counts.refused > 0 || service.troubles.length > 0;
  mark(headline, "data-tone", wants ? "person" : "calm");
  announce(service.headline);
  const outcomes = service.outcomes;
  const numbers = {
    ...service.counts,
    recovered: outcomes.recovered ?? 0,
    failed: (outcomes.failed ?? 0) + (outcomes.corrupt ?? 0),
    sessions: service.sessions,
  };
  for (const [word, number] of Object.entries(numbers)) {
    const tile = document.querySelector(`#counts [data-count="${word}"]`);
    say(tile.lastElementChild, count(number));
    mark(tile, "data-none", number === 0);
  }
  renderFacts(service);
}

function renderFacts(service) {
  const { watch, sweep, engine } = service;
  fact("watch", watch.missed > 0, watched(watch));
  if (sweep === null) fact("sweep", false, "none yet");
  else fact("sweep", false, moment("ago", epoch(sweep.ended)), `, took ${took(sweep.duration_ms)}`);
  fact("engine", engine !== null && !engine.answers, engine === null ? "none is asked" : `${engine.address} ${engine.answers ? "answers" : "does not answer"}`);
  fact("service", false, moment("up", epoch(service.since)), `, pid ${service.pid}`);
}

function watched(watch) {
  const directories = `${count(watch.directories)} ${watch.directories === 1 ? "directory" : "directories"}`;
  const missed = watch.missed > 0 ? `; ${count(watch.missed)} only swept` : "";
  return `${watch.backend ?? "none"}, ${directories}${watch.ready ? missed : " so far"}`;
}

function fact(word, isBad, ...words) {
  const element = document.querySelector(`#facts [data-fact="${word}"]`);
  mark(element, "data-bad", isBad);
  const said = element.lastElementChild;
  const [first, ...rest] = words;
  const shown = said.firstElementChild;
  if (typeof first !== "string" && shown?.dataset.age === first.dataset.age) {
    setMoment(shown, first.at);
    if (said.lastChild !== shown && said.lastChild.nodeType === Node.TEXT_NODE) said.lastChild.data = rest.join("");
  } else if (typeof first === "string") say(said, words.join(""));
  else said.replaceChildren(first, ...rest);
}

let toldAt = 0;
let toTell = "";
let telling = null;

/** Say it to a screen reader, but not at each step of it. */
function announce(words) {
  toTell = words;
  if (telling !== null || byId("told").textContent === words) return;
  telling = setTimeout(() => {
    telling = null;
    toldAt = Date.now();
    say(byId("told"), toTell);
  }, Math.max(500, toldAt + TOLD_EVERY_MS - Date.now()));
}

addEventListener("resize", () => state.service !== null && renderTimeline(state));
prepareSessions(state);
connect();
