// In the page of the panel: pictures chosen, dropped, pasted or taken are shrunk and sent to the
// kernel; Enter in the question box asks. page.py appends the call of `jupyter` or `colab`.

const SIDE = 1344; // pixels of the longer side: 4 x 336, the most that LLaVA-NeXT's tiles show
const SMALL = 9e5; // bytes: below, a file of no more pixels is sent as it is
const QUALITIES = [0.9, 0.8, 0.65, 0.5, 0.3]; // of JPEG; the first that is small enough
const FEW_COLOURS = 128; // among 64 x 64 pixels: a drawing or a text, which JPEG would blur

const encode = (canvas, type, quality) =>
  new Promise((done) => canvas.toBlob(done, type, quality));

function drawn(picture, width, height, ground) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (ground) {
    context.fillStyle = ground;
    context.fillRect(0, 0, width, height);
  }
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, width, height);
  return canvas;
}

function isFlat(canvas) {
  // Whether a picture has transparency or few colours.
  const { width, height } = canvas;
  const pixels = new Uint32Array(
    canvas.getContext("2d").getImageData(0, 0, width, height).data.buffer);
  if (pixels.some((each) => each >>> 24 < 255)) return true;
  const colours = new Set();
  for (let y = 0; y < 64; y++)
    for (let x = 0; x < 64; x++)
      colours.add(pixels[((y * height) >> 6) * width + ((x * width) >> 6)]);
  return colours.size <= FEW_COLOURS;
}

async function shrink(file, small) {
  // Return {blob, from}: no more than `small` bytes and, if it was made smaller, its size before.
  let bitmap;
  try {
    // The values as they are, without the colour profile: so does `open_image`.
    const how = { imageOrientation: "from-image", colorSpaceConversion: "none" };
    bitmap = await createImageBitmap(file, how);
  } catch {
    return { blob: file }; // HEIC and TIFF in most browsers
  }
  const from = [bitmap.width, bitmap.height];
  const scale = Math.min(1, SIDE / Math.max(...from));
  if (scale === 1 && file.size < small) return { blob: file };
  const [width, height] = from.map((each) => Math.max(1, Math.round(each * scale)));
  let picture = bitmap;
  // By halves: a browser that draws much smaller in one step leaves pixels out.
  while (picture.width >= 2 * width && picture.height >= 2 * height)
    picture = drawn(picture, Math.ceil(picture.width / 2), Math.ceil(picture.height / 2));
  const canvas = drawn(picture, width, height);
  bitmap.close();
  let blob = isFlat(canvas) ? await encode(canvas, "image/png") : null;
  for (const quality of QUALITIES)
    if (!blob || blob.size >= small)
      blob = await encode(drawn(canvas, width, height, "white"), "image/jpeg", quality);
  return { blob, from: scale < 1 ? from : null };
}

function start(link, limit, send) {
  // Serve the panels of a link on this page: `limit` bytes go through `send(about, blob)`.
  const places = () => document.querySelectorAll(`.llava-drop[data-link="${link}"]`);
  const panelOf = (place) => place.closest(".llava-panel") ?? place;
  const placeOf = (element) =>
    element instanceof Node && [...places()].find((place) => panelOf(place).contains(element));
  const isOff = (place) => place.dataset.enabled !== "true";
  const stopping = new AbortController();
  const on = (kind, action) =>
    // Before JupyterLab, which would take Enter for a command and a file for itself.
    window.addEventListener(kind, action, { capture: true, signal: stopping.signal });

  async function take(place, files) {
    const texts = JSON.parse(place.dataset.texts), label = place.firstChild;
    const most = files.slice(0, Number(place.dataset.most));
    const choice = crypto.getRandomValues(new Uint32Array(2)).join("-");
    label.textContent = texts.reading;
    try {
      for (const [at, file] of most.entries()) {
        const { blob, from } = await shrink(file, Math.min(limit, SMALL));
        const fits = blob.size <= limit;
        const about = { kind: "picture", choice, at, sent: most.length, all: files.length,
          name: file.name, size: blob.size, shrunk_from: from ?? null, limit: fits ? null : limit };
        await send(about, fits ? blob : null);
      }
      label.textContent = texts.choose;
    } catch (error) {
      console.error(error);
      label.textContent = texts.lost;
    }
  }

  function button(place, name, options) {
    const made = document.createElement("button");
    const input = Object.assign(document.createElement("input"), { type: "file", accept: "image/*" });
    for (const [option, value] of Object.entries(options)) input.setAttribute(option, value);
    Object.assign(made, { type: "button", className: `llava-${name}`, disabled: isOff(place) });
    made.textContent = JSON.parse(place.dataset.texts)[name];
    made.onclick = () => input.click();
    input.onchange = () => {
      if (input.files.length) take(place, [...input.files]);
      input.value = ""; // so that the same file can be chosen again
    };
    return made;
  }

  function name(place) {
    // For screen readers, what widgets cannot say of themselves.
    const panel = panelOf(place), texts = JSON.parse(place.dataset.texts);
    const say = (where, about) => {
      for (const each of panel.querySelectorAll(where))
        for (const [key, value] of Object.entries(about(each)))
          if (value && !each.hasAttribute(key)) each.setAttribute(key, value);
    };
    const label = (each) => each.closest(".llava-slider")?.querySelector("label")?.textContent;
    say(".llava-thread", () => ({ role: "log", "aria-live": "polite", "aria-label": texts.talk }));
    say(".llava-talk", () => ({ role: "region", tabindex: "0", "aria-label": texts.talk }));
    say(".llava-question textarea", () => ({ "aria-label": texts.question }));
    say(".llava-path textarea", () => ({ "aria-label": texts.by_path }));
    say(".llava-slider [role=slider]", (each) => ({ "aria-label": label(each) }));
  }

  function draw() {
    for (const place of places()) {
      name(place);
      if (place.firstChild) continue;
      place.append(button(place, "choose", { multiple: "" }),
        button(place, "camera", { capture: "environment" }));
      // Hides the FileUpload beside it. Classes given in Python may come later.
      place.closest(".jupyter-widgets")?.classList.add("llava-live");
      send({ kind: "here" }, null);
    }
  }

  let touched = null; // the panel that was clicked last: a picture is pasted there
  on("pointerdown", (event) => { touched = placeOf(event.target); });
  const over = (place) => { for (const each of places())
    panelOf(each).classList.toggle("llava-over", each === place && !isOff(each)); };
  const dropped = (event) => {
    const place = event.dataTransfer?.types.includes("Files") && placeOf(event.target);
    over(["dragenter", "dragover"].includes(event.type) ? place : null);
    if (!place) return;
    event.preventDefault(); // or the browser would leave the notebook for the file
    event.stopPropagation();
    if (event.type === "dragover") event.dataTransfer.dropEffect = isOff(place) ? "none" : "copy";
    const files = [...event.dataTransfer.files];
    if (event.type === "drop" && files.length && !isOff(place)) take(place, files);
  };
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) on(kind, dropped);
  on("paste", (event) => {
    const field = event.target.closest?.("input, textarea, [contenteditable]");
    const place = placeOf(event.target) || (field ? null : touched);
    const files = [...(event.clipboardData?.files ?? [])];
    const pictures = files.filter((each) => each.type.startsWith("image/"));
    if (!place || isOff(place) || !pictures.length) return;
    // A table or a text brings a picture of itself along.
    if (field && event.clipboardData.types.includes("text/plain")) return;
    event.preventDefault();
    event.stopPropagation();
    take(place, pictures);
  });
  const questionOf = ({ target }) => placeOf(target)
    && target.closest?.(".llava-question textarea, textarea.llava-question");
  // JupyterLab 4 prevents new lines in text areas that it does not know: those of ipywidgets 7.
  on("beforeinput", (event) => questionOf(event) && event.stopPropagation());
  on("keydown", (event) => {
    const text = questionOf(event);
    // 229: the key belongs to an input method, as Korean is written with.
    if (event.key !== "Enter" || event.isComposing || event.keyCode === 229) return;
    if (!text) return;
    event.stopImmediatePropagation();
    if (event.shiftKey) return; // a new line
    event.preventDefault();
    if (!event.repeat) send({ kind: "ask", text: text.value }, null);
  });

  const watch = new MutationObserver(draw);
  watch.observe(document.body, { childList: true, subtree: true });
  draw();
  return () => {
    watch.disconnect();
    stopping.abort();
  };
}

// A default Jupyter carries messages of 10 MiB.
const jupyter = (link) => ({ model }) =>
  start(link, 9.5e6, async (about, blob) =>
    model.send(about, undefined, blob ? [await blob.arrayBuffer()] : []));

function colab(link) {
  const kernel = globalThis.google?.colab?.kernel;
  if (!kernel?.accessAllowed) return; // a notebook that is looked at and not run
  const base64 = (blob) => new Promise((done, failed) => {
    const reader = Object.assign(new FileReader(), { onerror: failed });
    reader.onload = () => done(reader.result.split(",")[1] ?? "");
    reader.readAsDataURL(blob);
  });
  // Base64 of it stays below 1 MB, from where Colab loses messages: jupyter-widgets/ipywidgets#3452.
  start(link, 7e5, async (about, blob) =>
    kernel.invokeFunction(`llava_nb.picture.${link}`, [about, blob ? await base64(blob) : ""], {}));
}
