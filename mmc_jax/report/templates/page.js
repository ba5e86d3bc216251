"use strict";

// Each heading becomes a button that sorts the rows of each group by its column.
for (const table of document.querySelectorAll("table")) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const isDown = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", isDown ? "descending" : "ascending");
      const isNumeric = table.querySelector(
        `tbody tr > :nth-child(${column + 1})[data-value]`);
      for (const group of table.tBodies) {
        group.append(...sorted([...group.rows], column, isNumeric, isDown));
      }
    });
  });
}

// Numbers by value, and cells without one last, whichever way it goes.
function sorted(rows, column, isNumeric, isDown) {
  const sign = isDown ? -1 : 1;
  const text = (row) => row.cells[column].textContent.trim();
  if (!isNumeric) {
    return rows.sort((a, b) => sign * text(a).localeCompare(text(b), "en", {numeric: true}));
  }
  const value = (row) => row.cells[column].dataset.value;
  const known = rows.filter((row) => value(row) !== undefined);
  const missing = rows.filter((row) => value(row) === undefined);
  return [...known.sort((a, b) => sign * (value(a) - value(b))), ...missing];
}
