"use strict";
(() => {
  const [FIRST, STEP] = [10, 100];
  const find = (id) => document.getElementById(id);
  const make = (tag, text, parent) => {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  };

  const message = find("message");
  async function copy(text, button) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = make("textarea", text, document.body);  // browsers without the clipboard API
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "copied";
    message.textContent = "Command copied: " + text;
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-copy]");
    if (button) copy(button.dataset.copy, button);
  });

  // Tables that few readers open are built when they are opened.
  for (const details of document.querySelectorAll("details.later")) {
    details.addEventListener("toggle", () => details.querySelector("template")?.replaceWith(details.querySelector("template").content));
  }
  find("more-rows")?.addEventListener("click", (event) => {
    find("rows").tBodies[0].replaceWith(find("all-rows").content);
    event.target.parentElement.remove();
  });

  function download(name, blob) {
    const link = make("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  function svgText(section) {
    const svg = section.querySelector("svg").cloneNode(true);
    const [, , width, height] = svg.getAttribute("viewBox").split(" ");
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    svg.setAttribute("color", "#222222");
    return new XMLSerializer().serializeToString(svg);
  }
  async function savePng(name, section) {
    const image = new Image();
    image.src = URL.createObjectURL(new Blob([svgText(section)], { type: "image/svg+xml" }));
    await image.decode();
    const canvas = make("canvas");
    const [, , width, height] = section.querySelector("svg").getAttribute("viewBox").split(" ").map((number) => 3 * number);
    [canvas.width, canvas.height] = [width, height];
    const context = canvas.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => download(name + ".png", blob));
    URL.revokeObjectURL(image.src);
  }
  function csvText(section) {
    const details = section.querySelector("details.later");
    const table = (details.querySelector("template")?.content ?? details).querySelector("table");
    const quote = (text) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    return [...table.rows].map((row) => [...row.cells].map((field) => quote(field.textContent)).join(",")).join("\n") + "\n";
  }
  for (const line of document.querySelectorAll(".save")) {
    const [name, section] = [line.dataset.figure, line.closest("section")];
    line.hidden = false;
    line.addEventListener("click", (event) => {
      const form = event.target.dataset.save;
      if (form === "svg") download(name + ".svg", new Blob([svgText(section)], { type: "image/svg+xml" }));
      if (form === "csv") download(name + ".csv", new Blob([csvText(section)], { type: "text/csv" }));
      if (form === "png") savePng(name, section);
    });
  }

  const data = JSON.parse(find("cells-data").textContent);
  const short = (number) => {
    if (number === null) return "undef.";
    if (Math.abs(number) >= 100) return number.toExponential(1);
    return number.toFixed(3).replace(/^(-?)0\./, "$1.");
  };
  const span = (low, high) => (low === null ? "" : `[${short(low)}, ${short(high)}]`);
  const chance = (p) => (p === null ? "" : p < 1e-4 ? "<.0001" : p.toFixed(4).replace(/^0/, ""));
  // Name, value to sort by, text to show; `e` is a cell's entry on the chosen test.
  const columns = [
    ["id", (c) => c[0], (c) => c[0]],
    ...data.fields.map((name, i) => [name, (c) => c[1][i], (c) => (c[1][i] === null ? "" : String(c[1][i]))]),
    ["SPC", (c, e) => e[0], (c, e) => `${short(e[0])} ${span(e[1], e[2])}`],
    ["MAE", (c, e) => e[3], (c, e) => `${short(e[3])} ${span(e[4], e[5])}`],
    ["p", (c, e) => e[6], (c, e) => chance(e[6])],
    ["p corrected", (c, e) => e[7], (c, e) => chance(e[7])],
    ["images", (c, e) => e[8], (c, e) => String(e[8])],
    ["undefined", (c, e) => e[9], (c, e) => String(e[9])],
    ["warnings", (c, e) => e[10], (c, e) => e[10]],
  ];
  // A word is looked for anywhere; name=value must be a whole field.
  const fixed = Object.entries(data.fixed);
  const fields = data.cells.map((cell) => [["id", cell[0]], ...cell[1].map((v, i) => [data.fields[i], v]), ...fixed]);
  const texts = fields.map((pairs) => pairs.map(([, v]) => v).join(" ").toLowerCase());
  const values = fields.map((pairs) => new Set(pairs.map(([name, v]) => `${name}=${v}`.toLowerCase())));
  const state = { words: "", test: 0, sort: null, down: false, shown: FIRST };
  const body = find("cells-body");

  function select() {
    const words = state.words.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = data.cells
      .map((cell, i) => [cell, cell[2][state.test], i])
      .filter(([, entry, i]) => entry && words.every((word) => (word.includes("=") ? values[i].has(word) : texts[i].includes(word))));
    if (state.sort === null) return rows;
    const key = columns[state.sort][1];
    const sign = state.down ? -1 : 1;
    return rows.sort(([a, x], [b, y]) => {
      const [first, second] = [key(a, x), key(b, y)];
      if (first === null || second === null) return (first === null) - (second === null);  // cells without a number come last
      return sign * (typeof first === "number" ? first - second : String(first).localeCompare(String(second)));
    });
  }

  function render() {
    const rows = select();
    const page = document.createDocumentFragment();
    for (const [cell, entry] of rows.slice(0, state.shown)) {
      const line = make("tr", undefined, page);
      columns.forEach(([name, , text], i) => {
        const field = make(i ? "td" : "th", text(cell, entry), line);
        if (!i) field.scope = "row";
        if (name === "warnings") field.className = "wide warning";
      });
      const button = make("button", "copy", make("td", undefined, line));
      button.type = "button";
      const [before, after] = data.commands[cell[3]];
      button.dataset.copy = before + cell[0] + after;
      button.setAttribute("aria-label", "copy the command that scores " + cell[0]);
    }
    body.replaceChildren(page);
    find("cells-count").textContent = `${Math.min(state.shown, rows.length)} of ${rows.length} cells shown, ${data.cells.length} in all`;
    find("cells-more").hidden = state.shown >= rows.length;
  }

  const head = find("cells-head");
  columns.forEach(([name], i) => {
    const cell = make("th", undefined, head);
    cell.scope = "col";
    cell.setAttribute("aria-sort", "none");
    const button = make("button", name, cell);
    button.type = "button";
    button.addEventListener("click", () => {
      const up = name === "SPC" ? state.sort === i && state.down : state.sort !== i || state.down;  // the best SPC first
      Object.assign(state, { sort: i, down: !up, shown: FIRST });
      for (const other of head.children) if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
      cell.setAttribute("aria-sort", up ? "ascending" : "descending");
      render();
    });
  });
  make("th", "command", head).scope = "col";
  data.tests.forEach((name, i) => { make("option", name, find("cells-test")).value = i; });
  find("cells-test").addEventListener("change", (event) => { state.test = Number(event.target.value); render(); });
  find("cells-search").addEventListener("input", (event) => { Object.assign(state, { words: event.target.value, shown: FIRST }); render(); });
  find("cells-more").addEventListener("click", () => { state.shown += STEP; render(); });
  find("cells-tools").hidden = false;
  render();
})();
