// Draws the model's HTML. What has a data-key tells it when it is pressed or changed.
function render({ model, el }) {
  const find = ({ key, value }) =>
    [...el.querySelectorAll("[data-key]")].find(
      (other) => other.dataset.key === key && (other.type !== "radio" || other.value === value),
    );
  const draw = () => {
    const active = el.contains(document.activeElement) && document.activeElement;
    const open = [...el.querySelectorAll("details[open]")].map((fold) => fold.id);
    el.innerHTML = model.get("html");
    for (const id of open) el.querySelector(`details#${id}`)?.setAttribute("open", "");
    // Whoever uses the keyboard stays where they were.
    if (active) find({ key: active.dataset.key, value: active.value })?.focus();
    const dialog = el.querySelector("dialog");
    dialog?.addEventListener("close", () => model.send({ key: "close" }));
    dialog?.showModal();
  };
  const reveal = () => {
    const { top } = el.getBoundingClientRect();
    if (top < 0 || top > 0.7 * innerHeight) el.scrollIntoView({ block: "start" });
    if (document.activeElement === document.body) {
      el.querySelector("[tabindex]")?.focus({ preventScroll: true });
    }
  };
  el.addEventListener("click", async ({ target }) => {
    const copy = target.closest("[data-copy]");
    if (copy && navigator.clipboard) {
      await navigator.clipboard.writeText(copy.dataset.copy);
      copy.textContent = "copied";
    } else if (copy) {
      getSelection().selectAllChildren(copy.previousElementSibling); // only HTTPS may copy
    }
    if (target.closest("[data-back]")) {
      document.querySelector('.cbir-card [aria-pressed="true"]')?.scrollIntoView({ block: "center" });
    }
    const pressed = target.closest("button[data-key]");
    if (pressed) model.send({ key: pressed.dataset.key });
  });
  el.addEventListener("input", ({ target }) => {
    if (target.type === "range") target.nextElementSibling.value = target.value;
  });
  el.addEventListener("change", ({ target }) => {
    const value = target.type === "checkbox" ? target.checked : target.value;
    const waits = target.type === "search"; // for the Enter key, whether its text changed or not
    if (target.dataset.key && !waits) model.send({ key: target.dataset.key, value });
  });
  el.addEventListener("keydown", ({ key, target }) => {
    const asked = key === "Enter" && target.type === "search";
    if (asked) model.send({ key: target.dataset.key, value: target.value });
  });
  model.on("change:html", draw);
  model.on("change:revealed", () => requestAnimationFrame(reveal));
  model.on("change:busy", () => {
    el.closest(".cbir-page")?.classList.toggle("cbir-busy", model.get("busy"));
  });
  if (model.get("live")) el.setAttribute("role", "status");
  draw();
}
export default { render };
