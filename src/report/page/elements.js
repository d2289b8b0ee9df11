// Elements, and values as a person reads them. What comes from outside is set as text, never as markup.

export const NONE = "–";

/** Makes an element. Properties beginning with `on` are listeners; children that are no nodes become text. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false)
      element.setAttribute(name === "className" ? "class" : name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

export const number = (value) => (value === "inf" ? Infinity : value === "-inf" ? -Infinity : value);
export const or = (value, show) => (value === null || value === undefined ? NONE : show(value));
export const decibel = (value) => (number(value) === Infinity ? "∞" : number(value).toFixed(1));
export const milliseconds = (ns, digits = 4) =>
  ns / 1e6 >= 10 ** digits ? (ns / 1e6).toFixed() : (ns / 1e6).toPrecision(digits);
export const points = (drop) => `${(drop * 100 + 0).toFixed(2)} pt`;
export const plural = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
export const scaled = (value, units) => {
  const power = value < 1000 ? 0 : Math.min(units.length - 1, Math.floor(Math.log10(value) / 3));
  return `${power ? (value / 1000 ** power).toFixed(1) : value} ${units[power]}`.trim();
};
export const bytes = (value) => scaled(value, ["B", "kB", "MB", "GB"]);
export const count = (value) => scaled(value, ["", "k", "M", "G"]);
/** A name without a part of it, mostly of its beginning: names differ in their ends. */
export const shortened = (name, most) =>
  name.length <= most ? name : `${name.slice(0, most / 4)}…${name.slice(1 - most * 0.75)}`;
export const time = (ms) => new Date(ms).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
export const duration = (ms) => {
  const s = Math.round(ms / 1000);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
};
/** A number without a unit: four decimals, or a power of ten where these would say little. */
export const plain = (value) => {
  const size = Math.abs(value);
  return size === 0 || (size >= 1e-4 && size < 1e6) ? (value + 0).toFixed(4) : value.toExponential(3);
};
/** A score: a share in percent, dB, or the number that a program prints. */
export const score = (metric, value) =>
  metric === "score" ? plain(value) : metric === "sqnr" ? `${decibel(value)} dB` : `${(value * 100).toFixed(2)} %`;
/** A drop of a score: in points, or in the unit of a number. */
export const drop = (metric, value) => (metric === "score" ? plain(value) : points(value));

/** A table whose columns can be sorted by a click on their headings. A column: name, value, show, text. */
export function sortable(caption, columns, rows, { sort, down = false, rowClass, rowId } = {}) {
  const body = h("tbody");
  const heads = columns.map((column) => {
    const head = h("th", { scope: "col", className: column.text ? "text" : "" });
    const press = () => {
      down = sort === column.name ? !down : Boolean(column.down);
      sort = column.name;
      fill();
    };
    head.append(column.value ? h("button", { type: "button", onclick: press }, column.name) : column.name);
    return head;
  });
  function fill() {
    const column = columns.find((one) => one.name === sort);
    const order = [...rows];
    if (column) {
      const compare = (a, b) => (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
      order.sort((a, b) => {
        const [x, y] = [column.value(a), column.value(b)];
        if (x === null || y === null) return (x === null) - (y === null);
        return x === y ? 0 : compare(x, y) * (down ? -1 : 1);
      });
    }
    heads.forEach((head, index) => {
      if (columns[index].name === sort) head.setAttribute("aria-sort", down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    });
    body.replaceChildren(
      ...order.map((row) =>
        h(
          "tr",
          { className: rowClass?.(row) || "", id: rowId?.(row) },
          columns.map((column) =>
            h("td", { className: column.text ? `text ${column.value ? "name" : ""}` : "" }, column.show(row)),
          ),
        ),
      ),
    );
  }
  fill();
  return h(
    "div",
    { className: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("thead", {}, h("tr", {}, heads)), body),
  );
}

/** Saves a blob as a file. */
export function download(name, blob) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
