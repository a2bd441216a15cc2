// Keys: a letter presses the button, or follows the link, that names it. Nothing else needs a script.
"use strict";
const keys = document.getElementById("keys");
const stored = "stash-sense-review-keys";
if (keys) {
  keys.checked = sessionStorage.getItem(stored) !== "off";
  keys.addEventListener("change", () => sessionStorage.setItem(stored, keys.checked ? "on" : "off"));
}
let pressed = false;
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox]), textarea, select, [contenteditable]");
  if (!keys || !keys.checked || typing || event.ctrlKey || event.altKey || event.metaKey || event.repeat) {
    return;
  }
  const target = document.querySelector(`[data-key="${CSS.escape(event.key.toLowerCase())}"]:not(:disabled)`);
  // One key answers one card, also when it is pressed twice before the next card comes.
  if (target && !pressed) {
    pressed = true;
    event.preventDefault();
    target.click();
  }
});
window.addEventListener("pageshow", () => { pressed = false; });
