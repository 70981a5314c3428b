// The recoveries on a time line: when, how long each took (on a logarithmic scale), and what became of it.

import { el, keyed, mark, say, svg } from "./dom.js";
import { count, epoch, full, now, span, took } from "./figures.js";

const MOST = 120; // so many, at the least, are on it
const HEIGHT = 168;
const LEFT = 52;
const RIGHT = 12;
const TOP = 12;
const BOTTOM = 46;
const WINDOWS = [
  [60, "minute"], [300, "5 minutes"], [900, "15 minutes"], [3600, "hour"], [6 * 3600, "6 hours"], [86400, "day"],
  [7 * 86400, "week"], [90 * 86400, "90 days"], [3650 * 86400, "10 years"],
];
const STEPS = [
  10, 30, 60, 120, 300, 900, 1800, 3600, 3 * 3600, 6 * 3600, 12 * 3600,
  86400, 3 * 86400, 7 * 86400, 30 * 86400, 365 * 86400,
];
const SHAPES = {
  recovered: "M-3.500,0a3.500,3.500 0 1,0 7,0a3.500,3.500 0 1,0 -7,0z",
  failed: "M-4,-4L4,4M-4,4L4,-4",
  corrupt: "M0,-5L5,0L0,5L-5,0z",
  held: "M0,-4.500L4.500,3.500L-4.500,3.500z",
  refused: "M-3.500,-3.500H3.500V3.500H-3.500z",
};

let figure = null;

export function renderTimeline(state) {
  const host = document.getElementById("timeline");
  host.hidden = state.recoveries.length === 0;
  if (host.hidden) return;
  figure ??= build(host);
  const width = Math.max(280, host.clientWidth);
  const to = now();
  const oldest = epoch(state.recoveries[Math.min(state.recoveries.length, MOST) - 1].time);
  const [window, named] = WINDOWS.find(([each]) => to - oldest < each) ?? WINDOWS.at(-1);
  const rows = state.recoveries.filter((row) => to - epoch(row.time) < window);
  const longest = Math.max(100, ...rows.map((row) => row.duration_ms)) * 1.2;
  const x = (moment) => LEFT + ((moment - to + window) / window) * (width - LEFT - RIGHT);
  const y = (ms) => HEIGHT - BOTTOM - (Math.log10(Math.max(1, ms)) / Math.log10(longest)) * (HEIGHT - BOTTOM - TOP);
  mark(figure.svg, "viewBox", `0 0 ${width} ${HEIGHT}`);
  mark(figure.svg, "width", width);
  grid(figure.grid, width, longest, y, to, window, x);
  keyed(figure.marks, [...rows].reverse(), (row) => row.id, point, (element, row) => {
    const at = row.duration_ms > 0 ? y(row.duration_ms) : HEIGHT - BOTTOM + 14;
    mark(element, "transform", `translate(${x(epoch(row.time)).toFixed(1)},${at.toFixed(1)})`);
  });
  say(figure.caption, caption(rows, named));
}

function build(host) {
  const made = { grid: svg("g", { class: "grid" }), marks: svg("g", { class: "marks" }) };
  made.svg = svg("svg", { "aria-hidden": "true", height: HEIGHT, focusable: "false" }, made.grid, made.marks);
  made.caption = el("figcaption", { class: "small" });
  host.replaceChildren(made.svg, made.caption);
  return made;
}

function point(row) {
  const told = [`${row.session === "" ? "" : `${row.session}/`}${row.name}`, row.outcome];
  if (row.duration_ms > 0) told.push(took(row.duration_ms));
  told.push(full(epoch(row.time)));
  return svg("path", { d: SHAPES[row.outcome] ?? SHAPES.recovered, "data-standing": row.outcome },
    svg("title", {}, told.join("\n")));
}

function grid(group, width, longest, y, to, window, x) {
  const lines = [];
  for (let ms = 1; ms <= longest; ms *= 10) {
    lines.push({ key: `y${ms}`, x1: LEFT, x2: width - RIGHT, y1: y(ms), y2: y(ms), text: took(ms).replace(".0", ""), tx: LEFT - 8, ty: y(ms) + 4, anchor: "end" });
  }
  const step = STEPS.find((each) => window / each <= Math.min(8, (width - LEFT - RIGHT) / 95 + 1)) ?? STEPS.at(-1);
  for (let back = step; back <= window; back += step) {
    const at = x(to - back);
    if (at < LEFT + 14) break;
    lines.push({ key: `x${back}`, x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM, text: `${span(back)} ago`, tx: at, ty: HEIGHT - 8, anchor: "middle" });
  }
  lines.push({ key: "now", x1: width - RIGHT, x2: width - RIGHT, y1: TOP, y2: HEIGHT - BOTTOM, text: "now", tx: width - RIGHT, ty: HEIGHT - 8, anchor: "end" });
  keyed(group, lines, (line) => line.key, () => svg("g", {}, svg("line"), svg("text")), (element, line) => {
    const [stroke, text] = element.children;
    for (const name of ["x1", "x2", "y1", "y2"]) mark(stroke, name, line[name].toFixed(1));
    mark(text, "x", line.tx.toFixed(1));
    mark(text, "y", line.ty.toFixed(1));
    mark(text, "text-anchor", line.anchor);
    say(text, line.text);
  });
}

const SIGNS = { failed: "×", corrupt: "◆", held: "▲", refused: "■" };

function caption(rows, named) {
  const others = Object.entries(SIGNS).flatMap(([outcome, sign]) => {
    const number = rows.filter((row) => row.outcome === outcome).length;
    return number === 0 ? [] : [`${sign} ${count(number)} ${outcome}`];
  });
  const durations = rows.filter((row) => row.outcome === "recovered").map((row) => row.duration_ms).sort((a, b) => a - b);
  const first = `In the last ${named} ${count(durations.length)} recovered`;
  if (durations.length === 0) return [first, ...others].join("; ") + ".";
  const middle = took(durations[Math.floor(durations.length / 2)]);
  const speed = durations.length === 1 ? ` in ${middle}` : `, half of them within ${middle}, the slowest in ${took(durations.at(-1))}`;
  return [`${first}${speed}`, ...others].join("; ") + ".";
}
