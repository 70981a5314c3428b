// What has become of journals: a table, the newest first.

import { el, keyed, say } from "./dom.js";
import { epoch, took } from "./figures.js";
import { badge, moment, name } from "./parts.js";

const STEP = 10;

let shown = STEP;

export function renderRecoveries(state) {
  const body = document.querySelector("#recovery-table tbody");
  keyed(body, state.recoveries.slice(0, shown), (row) => row.id, (row) => line(row, true), () => {});
  document.getElementById("recovery-table").hidden = state.recoveries.length === 0;
  document.getElementById("recoveries-empty").hidden = state.recoveries.length > 0;
  let more = document.getElementById("more-recoveries");
  if (more === null) {
    more = el("button", { type: "button", class: "more", id: "more-recoveries" });
    more.addEventListener("click", () => {
      shown += 2 * STEP;
      renderRecoveries(state);
    });
    document.getElementById("recovery-table").after(more);
  }
  more.hidden = state.recoveries.length <= shown;
  say(more, `Show ${Math.min(2 * STEP, state.recoveries.length - shown)} more`);
}

/** One of them as a row of a table. */
export function line(row, isNamed) {
  const why = row.error === null ? null : el("span", { class: "why" }, row.error);
  return el("tr", {},
    el("td", { class: "when" }, moment("ago", epoch(row.time))),
    isNamed ? el("td", {}, name(row), why) : null,
    el("td", {}, badge(row.outcome), isNamed ? null : why),
    el("td", { class: "figure wide" }, row.pages === null ? "" : String(row.pages)),
    el("td", { class: "figure" }, duration(row)));
}

/** Of a rollback; of what was held or refused there is none to tell. */
export function duration(row) {
  return row.duration_ms > 0 ? took(row.duration_ms) : "";
}
