// Elements from texts alone: no string ever becomes markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; a child is a node or a text, null is left out. */
export function el(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Set a text where it differs: what is selected, or read out, stays. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function mark(element, name, value) {
  if (value === null || value === undefined || value === false) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value === true ? "" : value);
}

const KEPT = new WeakMap();

/**
 * Make the children of `parent` those of `items`, in their order, and keep each element for as long as its key is there.
 * `make(item)` gives a new element, `update(element, item)` brings one up to date.
 */
export function keyed(parent, items, keyOf, make, update) {
  let kept = KEPT.get(parent);
  if (kept === undefined) {
    parent.replaceChildren();
    KEPT.set(parent, (kept = new Map()));
  }
  const now = new Map();
  let next = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let element = kept.get(key);
    if (element === undefined) element = make(item);
    else kept.delete(key);
    update(element, item);
    now.set(key, element);
    if (element === next) next = next.nextElementSibling;
    else parent.insertBefore(element, next);
  }
  for (const element of kept.values()) element.remove();
  KEPT.set(parent, now);
}
