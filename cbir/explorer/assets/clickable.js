function render({ model, el }) {
  const draw = () => {
    const key = document.activeElement?.dataset?.key;
    el.innerHTML = model.get("html");
    if (!key) return;
    // Whoever uses the keyboard stays where they were.
    el.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
  };
  model.on("change:html", draw);
  el.addEventListener("click", (event) => {
    const target = event.target.closest("[data-key]");
    if (target) model.send({ key: target.dataset.key });
  });
  if (model.get("live")) el.setAttribute("role", "status");
  draw();
}
export default { render };
