// Figures and moments for people.

let ahead = 0; // seconds by which the service's clock is ahead of ours

/** Told the service's clock. */
export function setClock(now) {
  ahead = now - Date.now() / 1000;
}

/** Seconds since the epoch, by the service's clock. */
export function now() {
  return Date.now() / 1000 + ahead;
}

export function epoch(rfc3339) {
  return Date.parse(rfc3339) / 1000;
}

const UNITS = [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];

/** For how long: two units at the most. */
export function span(seconds) {
  const whole = Math.max(0, Math.floor(seconds));
  for (const [size, unit, below, name] of UNITS) {
    if (whole >= size) {
      const count = Math.floor(whole / size);
      const rest = Math.floor((whole % size) / below);
      return rest > 0 && count < 10 ? `${count} ${unit} ${rest} ${name}` : `${count} ${unit}`;
    }
  }
  return `${whole} s`;
}

export function ago(moment) {
  const seconds = now() - moment;
  return seconds < 1 ? "just now" : `${span(seconds)} ago`;
}

/** A duration of a recovery. */
export function took(ms) {
  if (ms < 1000) return `${ms.toFixed(ms < 100 ? 1 : 0)} ms`;
  return ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : span(ms / 1000);
}

export function size(bytes) {
  let number = bytes;
  for (const unit of ["B", "KiB", "MiB"]) {
    if (number < 1024) return `${number.toFixed(number >= 10 || unit === "B" ? 0 : 1)} ${unit}`;
    number /= 1024;
  }
  return `${number.toFixed(number >= 10 ? 0 : 1)} GiB`;
}

export function count(number) {
  return number.toLocaleString("en");
}

export function counted(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}

const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const TIME = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });

/** A moment in full, in the reader's own time zone. */
export function full(moment) {
  return FULL.format(new Date(moment * 1000));
}

export function clock(moment) {
  return TIME.format(new Date(moment * 1000));
}
