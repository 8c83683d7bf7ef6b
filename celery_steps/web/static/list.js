// The list under a reader's eyes: rows change in place at once; rows come and go at once only while nobody is at the list.
"use strict";

{
  const button = () => document.getElementById("newer");
  let newest = null;

  // Called by console.js for each element with data-live="steady": true if the whole of it may be replaced.
  globalThis.stepsSteady = (old, next) => {
    const rows = new Map([...next.querySelectorAll("tr[data-run]")].map((row) => [row.dataset.run, row]));
    const shown = [...old.querySelectorAll("tr[data-run]")];
    const same = shown.length === rows.size && shown.every((row) => rows.has(row.dataset.run));
    const away = scrollY === 0 && !old.matches(":hover") && !old.contains(document.activeElement);
    if (away) {
      button().hidden = true;
      return true;
    }
    for (const row of shown) {
      const fresh = rows.get(row.dataset.run);
      if (!fresh || fresh.isEqualNode(row)) continue;
      const focus = row.contains(document.activeElement);
      const copy = document.importNode(fresh, true);
      row.replaceWith(copy);
      if (focus) copy.querySelector("a")?.focus({ preventScroll: true });
    }
    newest = same ? null : next;
    button().hidden = same;
    return false;
  };

  button()?.addEventListener("click", () => {
    const old = document.getElementById("runs");
    if (newest) old.replaceWith(document.adoptNode(newest));
    newest = null;
    button().hidden = true;
    scrollTo({ top: 0 });
    document.querySelector("#runs a")?.focus();
  });
}
