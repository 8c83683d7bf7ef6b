// Before the page is painted, so that it does not flash in the other theme.
"use strict";
try {
  const theme = localStorage.getItem("steps-theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // No storage: the system's theme.
}
