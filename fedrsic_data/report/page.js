"use strict";
// Tables are sorted by their header's buttons; long ones hold all rows as data, and show a page of them.
const PAGE = 50;
const words = new Intl.Collator("en", { numeric: true });

/** What a cell is sorted by: its number, or else its text; null if it says nothing. */
function key(text) {
  const plain = text.trim();
  if (plain === "" || plain === "-") return null;
  const number = /^<?(-?[\d,]*\.?\d+)(%| ± .*)?$/.exec(plain);
  if (!number) return plain;
  const value = Number(number[1].replaceAll(",", ""));
  return plain.startsWith("<") ? value / 2 : value;
}

/** Empty cells stand last, whichever way a column is sorted. */
function compare(a, b, down) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "number" && typeof b === "number" ? a - b : words.compare(a, b);
  return down ? -order : order;
}

/** Calls `sort(column, down)` when a header's button is used, and says so in aria-sort. */
function headers(table, sort) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending" ||
        (head.classList.contains("number") && !head.hasAttribute("aria-sort"));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(column, down);
    });
  });
}

function whole(table) {
  const body = table.tBodies[0];
  headers(table, (column, down) => {
    const rows = [...body.rows].map((row) => [key(row.cells[column].textContent), row]);
    rows.sort((a, b) => compare(a[0], b[0], down));
    body.append(...rows.map((pair) => pair[1]));
  });
}

function paged(block, table) {
  const columns = JSON.parse(block.querySelector('script[type="application/json"]').textContent);
  const body = table.tBodies[0];
  const status = block.querySelector("[role=status]");
  const [back, next] = block.querySelectorAll("button[data-step]");
  const right = [...table.tHead.rows[0].cells].map((cell) => cell.classList.contains("number"));
  const total = columns[0].values.length;
  let order = Array.from({ length: total }, (_, i) => i);
  let shown = order;
  let page = 0;

  const text = ({ names, digits, values }, i) => {
    if (names) return names[values[i]];
    if (digits === undefined) return values[i];
    if (values[i] === null) return "-";
    return values[i].toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
  };
  const sortable = (column, i) => (column.digits === undefined ? key(text(column, i)) : column.values[i]);

  function show() {
    const first = page * PAGE;
    body.replaceChildren(...shown.slice(first, first + PAGE).map((i) => {
      const row = document.createElement("tr");
      columns.forEach((column, c) => {
        const cell = row.insertCell();
        const name = cell.appendChild(document.createElement("bdi"));
        name.textContent = text(column, i);
        if (right[c]) cell.className = "number";
      });
      return row;
    }));
    const last = Math.min(first + PAGE, shown.length);
    const some = shown.length < total ? ` (of ${total.toLocaleString("en")})` : "";
    status.textContent = shown.length
      ? `${(first + 1).toLocaleString("en")} to ${last.toLocaleString("en")} of ${shown.length.toLocaleString("en")}${some}`
      : "none found";
    back.disabled = page === 0;
    next.disabled = last >= shown.length;
  }

  headers(table, (column, down) => {
    const keys = order.map((_, i) => sortable(columns[column], i));
    const sort = (a, b) => compare(keys[a], keys[b], down) || a - b;
    order.sort(sort);
    shown = shown === order ? order : [...shown].sort(sort);
    page = 0;
    show();
  });
  for (const button of [back, next]) {
    button.addEventListener("click", () => {
      page += Number(button.dataset.step);
      show();
    });
  }
  let waiting;
  block.querySelector("input").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      const wanted = event.target.value.trim().toLowerCase();
      const texts = columns.filter((column) => column.digits === undefined);
      const has = (i) => texts.some((column) => text(column, i).toLowerCase().includes(wanted));
      shown = wanted ? order.filter(has) : order;
      page = 0;
      show();
    }, 150);
  });
  show();
}

for (const block of document.querySelectorAll("div.table")) {
  const table = block.querySelector("table");
  if (block.hasAttribute("data-paged")) paged(block, table);
  else whole(table);
}
