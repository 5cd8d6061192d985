// What only the browser can do for the pad: hold the pen fast and show its ink at once,
// tell a busy kernel from a dead one, and give everything a name that is read aloud.
// Run once for each view, with `element` inside it, or about to be.

let pad = null, sheet = null;
const STILL_MS = 400, ASK_MS = 2000, REST_MS = 10000, LOST_MS = 4000, SIZE = 280,
  FEW_PX = 3, SEND_MS = 40;
const find = selector => pad.querySelector(selector);
const answers = () => find(".answers")?.dataset ?? {};

// --- the pen -----------------------------------------------------------------------

function layPen(canvas) {
  // A sheet over ipycanvas's canvas. It shows a stroke at once and hands it down; when
  // the kernel's own ink has come, its trace is wiped off.
  const sheet = document.createElement("canvas"), context = sheet.getContext("2d");
  sheet.className = "mnistlab-sheet";
  sheet.width = 0;  // it is given its pixels by the first trace
  sheet.tabIndex = 0;
  sheet.setAttribute("role", "img");
  canvas.tabIndex = -1;
  canvas.ariaHidden = true;
  canvas.after(sheet);
  let pointer = null, begun = false, points = [], traces = [], timeout = 0;

  const place = ({clientX, clientY}) => {
    const box = canvas.getBoundingClientRect(), scale = SIZE / box.width;
    return [(clientX - box.left) * scale, (clientY - box.top) * scale];
  };
  const send = (type, places) => {
    // ipycanvas has a message with many places: that of many fingers.
    const box = canvas.getBoundingClientRect(), scale = box.width / SIZE;
    const touches = places.map(([x, y]) => ({
      clientX: box.left + x * scale, clientY: box.top + y * scale}));
    canvas.dispatchEvent(Object.assign(new Event(type, {cancelable: true}), {touches}));
  };
  const flush = (type = "touchmove") => {
    timeout = 0;
    send(type, points.splice(0));
  };
  const open = () => {
    if (!begun) send("touchstart", [traces.at(-1)[0]]);
    begun = true;
  };
  const trace = stroke => {
    const pixels = Math.round(canvas.clientWidth * devicePixelRatio);
    if (sheet.width !== pixels) {
      sheet.width = sheet.height = pixels;
      stroke = null;
    }
    context.setTransform(pixels / SIZE, 0, 0, pixels / SIZE, 0, 0);
    context.strokeStyle = "white";
    context.lineWidth = +answers().brush || 18;
    context.lineCap = context.lineJoin = "round";
    for (const one of stroke ? [stroke] : traces) {
      context.beginPath();
      context.moveTo(...one[0]);
      one.forEach(point => context.lineTo(...point));
      context.stroke();
    }
  };
  const begin = at => {
    begun = false;
    traces.push([at]);
    trace(traces.at(-1));
  };
  const go = at => {
    const [x, y] = traces.at(-1)[0];
    traces.at(-1).push(at);
    trace(traces.at(-1).slice(-2));
    points.push(at);
    if (Math.hypot(at[0] - x, at[1] - y) > FEW_PX) open();
    if (begun) timeout ||= setTimeout(flush, SEND_MS);
  };
  const end = () => {
    pointer = null;
    clearTimeout(timeout);
    open();
    flush("touchend");
    expect();
  };
  const forget = () => {  // two fingers that came together
    pointer = null;
    points = [];
    traces.pop();
    context.clearRect(0, 0, SIZE, SIZE);
    trace();
  };
  const press = event => {
    if (pointer !== null) return event.isPrimary || (begun ? end() : forget());
    if (!event.isPrimary || !(event.buttons & 1) || event.buttons > 1) return;
    event.preventDefault();
    sheet.focus({preventScroll: true});
    try { sheet.setPointerCapture(event.pointerId); } catch { /* it was synthetic */ }
    pointer = event.pointerId;
    begin(place(event));
  };
  sheet.addEventListener("pointerdown", press);
  sheet.addEventListener("pointerenter", event => {
    if (event.pointerType === "mouse") press(event);  // pressed outside, drawn in
  });
  sheet.addEventListener("pointermove", event => {
    if (event.pointerId === pointer) go(place(event));
  });
  for (const type of ["pointerup", "pointercancel", "lostpointercapture"])
    sheet.addEventListener(type, event => {
      if (event.pointerId === pointer) end();
    });
  sheet.addEventListener("keydown", event => {
    const held = event.ctrlKey || event.metaKey, name = event.key.toLowerCase();
    const tool = held && name === "z" ? (event.shiftKey ? "Redo" : "Undo")
      : held && name === "y" ? "Redo" : /^(delete|backspace)$/.test(name) && "Clear";
    if (!tool) return;  // Tab, Escape and the rest are the page's
    event.preventDefault();
    event.stopPropagation();
    const tools = [...pad.querySelectorAll(".mnistlab-tools button")];
    tools.find(one => one.textContent.trim() === tool).click();
  });
  return {
    drawing: () => pointer !== null,
    unsent: () => traces,
    resend: strokes => {
      for (const stroke of strokes) {
        begin(stroke[0]);
        stroke.slice(1).forEach(go);
        end();
      }
    },
    wipe: () => {
      if (pointer !== null) return;
      traces = [];
      setTimeout(() => {  // the kernel's ink comes behind its answer
        if (!traces.length) context.clearRect(0, 0, SIZE, SIZE);
      }, SEND_MS);
    },
  };
}

// --- the connection ----------------------------------------------------------------

const STATES = {
  busy: "The kernel is busy with something else. What you draw is kept and answered then.",
  kernel: "The kernel has stopped. Run the notebook again; on the web page, reload. "
    + "What you drew is kept.",
  lost: "The kernel no longer knows this pad: it was restarted. Run the notebook again. "
    + "What you drew is kept.",
  server: "The server has stopped, or cannot be reached. Start it again (make lab, or "
    + "make app) and reload. What you drew is kept.",
};
const config = JSON.parse(document.getElementById("jupyter-config-data")?.text ?? "{}");
let key = "", asked = 0, since = 0, timer = 0;

function say(state) {
  const word = find(".mnistlab-word");
  pad.classList.toggle("mnistlab-late", Boolean(state));
  if (word.dataset.state === state) return;
  word.dataset.state = state;
  word.textContent = STATES[state] ?? "";
}

async function look() {
  // What has become of the kernel? Its server knows.
  clearTimeout(timer);
  if (!pad.isConnected) return;
  timer = setTimeout(look, since ? ASK_MS : REST_MS);
  const id = pad.querySelector("[data-kernel]")?.dataset.kernel.replace("kernel-", "");
  let state = "busy";
  if (id && config.baseUrl && !document.hidden) {
    try {
      const reply = await fetch(config.baseUrl + "api/kernels/" + id);
      const kernel = reply.ok ? await reply.json() : {};
      const alive = ["busy", "idle", "starting"].includes(kernel.execution_state);
      if (!alive) state = "kernel";
      else if (kernel.execution_state === "idle") state = "lost";
    } catch {
      state = "server";
    }
  }
  const waited = since && performance.now() - since;
  if (state === "lost") state = waited > LOST_MS ? "lost" : waited ? "busy" : "";
  if (state === "busy" && !since) state = "";  // busy, but nobody waits for it
  say(state);
}

function expect() {
  // Something was asked of the kernel; it answers in milliseconds, or is busy.
  sessionStorage.setItem(key, JSON.stringify(sheet.unsent()));
  if (since) return;
  since = performance.now();
  asked = answers().update;
  clearTimeout(timer);
  timer = setTimeout(look, STILL_MS);
}

function answered() {
  const {update, pen} = answers();
  if (!since || !update || update === asked) return;
  if (pen !== undefined && !sheet.drawing()) return;
  since = 0;
  sheet.wipe();
  setTimeout(() => {  // innerText lays the page out anew: not before the answer is seen
    find(".mnistlab-spoken").textContent = find(".answers")?.innerText ?? "";
  }, SEND_MS);
  sessionStorage.removeItem(key);
  say("");
  clearTimeout(timer);
  timer = setTimeout(look, REST_MS);
}

// --- names -------------------------------------------------------------------------

function name() {
  // Nodes that stay, while what is in them comes and goes, can be read aloud.
  find(".mnistlab-says").setAttribute("role", "status");
  find(".mnistlab-sheet").ariaLabel = "Canvas: draw a digit with mouse, finger or pen. "
    + "Control Z undoes, Control Y redoes, Delete clears.";
  for (const group of pad.querySelectorAll("[class*=mnistlab-group]")) {
    group.setAttribute("role", "group");
    group.ariaLabel = group.querySelector(".caption")?.textContent;
  }
  pad.querySelectorAll("[role=slider]").forEach(one => { one.ariaLabel = "Brush, pixels"; });
}

function begin() {
  pad = element.closest(".mnistlab-pad");
  const canvas = pad && find(".mnistlab-canvas canvas");
  if (!canvas || !answers().update || !find("[role=slider]"))
    return setTimeout(begin, 50);  // not all is there yet
  sheet = layPen(canvas);
  name();
  const views = [...document.querySelectorAll(".mnistlab-pad")];
  key = `mnistlab ${location.pathname} ${views.indexOf(pad)}`;
  new MutationObserver(answered).observe(pad, {childList: true, subtree: true});
  pad.addEventListener("click", ({target}) => target.closest("button") && expect());
  pad.addEventListener("change", expect);  // the switch and the boxes
  const unsent = JSON.parse(sessionStorage.getItem(key) ?? "[]");
  if (unsent.length) sheet.resend(unsent);
  timer = setTimeout(look, REST_MS);
}
begin();
