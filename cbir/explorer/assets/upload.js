// A file goes to the kernel only if it is small enough: a larger message would end the connection.
function render({ model, el }) {
  el.innerHTML = `
    <label class="cbir-upload" tabindex="-1">
      <input type="file" accept="image/*" aria-label="Upload a picture">
      <span>Upload a picture, or drop it here</span>
    </label>`;
  const input = el.querySelector("input");
  const label = el.querySelector("label");
  const take = async (file) => {
    if (!file) return;
    const about = { name: file.name, size: file.size };
    try {
      const fits = file.size <= model.get("limit");
      model.send(about, undefined, fits ? [await file.arrayBuffer()] : []);
    } catch (error) {
      model.send({ ...about, failed: true });
    }
  };
  input.addEventListener("change", async () => {
    await take(input.files[0]);
    input.value = "";
  });
  label.addEventListener("dragover", (event) => {
    event.preventDefault();
    label.classList.add("over");
  });
  label.addEventListener("dragleave", () => label.classList.remove("over"));
  label.addEventListener("drop", (event) => {
    event.preventDefault();
    label.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
}
export default { render };
