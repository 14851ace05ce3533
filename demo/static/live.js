/* Live talk: the microphone goes up in small blocks, the reply comes down in pieces and is played as they come. A piece whose
   generation is not the one being played is stale and dropped, and a stop silences at once what was scheduled. */
(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const HOLD_MS = 500;
  const SAYS = {
    idle: "Press and speak", listening: "Press when done", thinking: "Thinking", speaking: "Press to stop",
  };
  let socket = null, context = null, microphone = null, rate = 16000;
  let mode = "off", state = "idle";
  let generation = -1, playhead = 0, started = 0, scheduled = [], whole = false;
  let token = "", pressedAt = 0, lastWords = "";
  const marks = (window.omniMarks = []);
  const mark = (name, more) => { marks.push({ name, at: performance.now(), ...more }); if (marks.length > 4000) marks.shift(); };

  // -- what the page says ----------------------------------------------------------------------------------------

  function show(next, words) {
    state = next;
    const press = $("press");
    if (!press) return;
    press.dataset.state = next;
    press.setAttribute("aria-pressed", String(next === "listening"));
    $("press-words").textContent = mode === "hands-free" && next === "listening" ? "I am listening" : SAYS[next];
    if (words !== undefined) $("caption").textContent = words;
  }

  function quoted(text) {
    const caption = $("caption"), span = document.createElement("span");
    span.className = "words";
    span.textContent = text;
    caption.replaceChildren(span);
  }

  function fail(card) {
    $("live-card").innerHTML = card;
  }

  function explain(title, text) {
    const card = document.createElement("div");
    card.className = "error-card";
    card.setAttribute("role", "alert");
    card.innerHTML = "<h3></h3><p></p>";
    card.querySelector("h3").textContent = title;
    card.querySelector("p").textContent = text;
    $("live-card").replaceChildren(card);
  }

  function refresh() {
    const button = document.querySelector("#refresh button, button#refresh");
    if (button) button.click();
  }

  // -- playing ---------------------------------------------------------------------------------------------------

  function flush() {
    for (const source of scheduled) { source.onended = null; source.stop(); }
    if (scheduled.length) mark("flushed", { output_ms: 1000 * (context.outputLatency || context.baseLatency || 0) });
    scheduled = [];
    playhead = 0;
  }

  function play(data) {
    const view = new DataView(data);
    if (view.getUint32(0, true) !== generation) { mark("stale"); return; }
    const samples = new Int16Array(data.slice(4));
    if (!samples.length) return;
    const buffer = context.createBuffer(1, samples.length, rate);
    const channel = buffer.getChannelData(0);
    for (let i = 0; i < samples.length; i++) channel[i] = samples[i] / 32768;
    const source = context.createBufferSource();
    source.buffer = buffer;
    source.connect(context.destination);
    if (!playhead) { playhead = started = context.currentTime + 0.03; mark("playing", { generation }); show("speaking"); }
    const at = Math.max(playhead, context.currentTime);
    started += at - playhead;
    source.start(at);
    playhead = at + buffer.duration;
    scheduled.push(source);
    source.onended = () => {
      scheduled = scheduled.filter((other) => other !== source);
      if (!scheduled.length && whole) finished();
    };
  }

  function finished() {
    tell({ type: "played", ms: 1000 * (playhead - started) + 5 });
    mark("finished");
    playhead = 0;
    if (state === "speaking") show(mode === "hands-free" ? "listening" : "idle");
  }

  setInterval(() => {
    if (playhead && scheduled.length) {
      tell({ type: "played", ms: 1000 * Math.max(0, Math.min(context.currentTime, playhead) - started) });
    }
  }, 100);

  // -- the line --------------------------------------------------------------------------------------------------

  function tell(message) {
    if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
  }

  const heard = {
    ready: (m) => { rate = m.rate; },
    speech: () => { mark("speech"); show("listening", "…"); fail(""); },
    silence: () => mark("silence"),
    thinking: (m) => { flush(); generation = m.generation; whole = false; lastWords = ""; mark("thinking"); show("thinking"); },
    heard: (m) => { quoted(m.text ? `“${m.text}”` : "I did not catch the words"); mark("heard", { text: m.text }); refresh(); },
    reply: (m) => { lastWords = m.text; quoted(m.text); refresh(); },
    done: () => { whole = true; mark("done"); if (!scheduled.length) finished(); refresh(); },
    stop: (m) => { generation = -1; flush(); mark("stop", { played_ms: m.played_ms }); refresh(); },
    error: (m) => { fail(m.card); mark("error"); show(mode === "hands-free" ? "listening" : "idle", ""); refresh(); },
  };

  function connect() {
    return new Promise((resolve, reject) => {
      if (socket && socket.readyState === WebSocket.OPEN) return resolve();
      const where = new URL(`talk/${token}`, location.href);
      where.protocol = where.protocol.replace("http", "ws");
      where.search = where.hash = "";
      socket = new WebSocket(where);
      socket.binaryType = "arraybuffer";
      socket.onmessage = (event) => {
        if (typeof event.data !== "string") return play(event.data);
        const message = JSON.parse(event.data);
        if (heard[message.type]) heard[message.type](message);
        if (message.type === "ready") resolve();
      };
      socket.onerror = () => reject(new Error("line"));
      socket.onclose = () => { if (mode !== "off") { stopListening(); explain("The line was lost", "Is the program still running? Reload the page and try again."); } };
    });
  }

  async function listen() {
    if (!navigator.mediaDevices) {
      throw new Error("The browser gives the microphone only to pages of this computer or over HTTPS. Open the page as http://127.0.0.1:PORT, or upload a recording.");
    }
    if (!context) {
      context = new AudioContext({ sampleRate: 16000, latencyHint: "interactive" });
      await context.audioWorklet.addModule("own/capture-worklet.js");
    }
    await context.resume();
    if (microphone) return;
    const stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 },
    });
    const source = context.createMediaStreamSource(stream);
    const node = new AudioWorkletNode(context, "capture", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => {
      if (mode === "off") return;
      if (socket && socket.readyState === WebSocket.OPEN) socket.send(data.sound);
      if (window.omniLevels) window.omniLevels.push({ at: performance.now(), level: data.level });
      $("press").style.setProperty("--level", Math.min(1, data.level * 8).toFixed(2));
    };
    source.connect(node);
    microphone = { stream, source, node };
  }

  function deafen() {
    if (!microphone) return;
    microphone.stream.getTracks().forEach((track) => track.stop());
    microphone.source.disconnect();
    microphone.node.port.onmessage = null;
    microphone = null;
    $("press").style.setProperty("--level", 0);
  }

  async function begin(next) {
    fail("");
    try {
      flush();
      await listen();
      await connect();
      mode = next;
      tell({ type: "start", mode: next });
      show("listening", next === "hands-free" ? "Just speak; you may also speak over the reply" : "Listening");
      mark("listening");
    } catch (error) {
      stopListening();
      const refused = { NotAllowedError: 1, NotFoundError: 1, NotReadableError: 1 }[error.name];
      explain("The microphone cannot be used", refused
        ? "Allow the microphone for this page in the browser's settings, check that one is connected, and press again; or upload a recording."
        : error.message === "line" ? "The program does not answer. Is it still running? Reload the page." : error.message);
    }
  }

  function stopListening() {
    mode = "off";
    deafen();
    $("hands-free").setAttribute("aria-checked", "false");
    show("idle", "");
  }

  function commit() {
    mode = "off";
    deafen();
    tell({ type: "commit" });
    show("thinking", "");
  }

  // -- pressing --------------------------------------------------------------------------------------------------

  function press() {
    if (mode === "hands-free") return handsFree();
    if (mode === "press") return commit();
    if (state === "speaking" || state === "thinking") {
      generation = -1;
      flush();
      tell({ type: "cancel" });
      return show("idle", "");
    }
    begin("press");
  }

  function handsFree() {
    if (mode === "hands-free") {
      generation = -1;
      flush();
      tell({ type: "stop" });
      return stopListening();
    }
    $("hands-free").setAttribute("aria-checked", "true");
    begin("hands-free");
  }

  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest || !event.target.closest("#press") || event.button) return;
    pressedAt = performance.now();
    press();
  });
  document.addEventListener("pointerup", () => {
    if (pressedAt && mode === "press" && performance.now() - pressedAt > HOLD_MS) commit();
    pressedAt = 0;
  });
  document.addEventListener("click", (event) => {
    if (!event.target.closest) return;
    if (event.target.closest("#press") && event.detail === 0) press();
    if (event.target.closest("#hands-free")) handsFree();
  });

  // -- the page is ready when its visit is known -------------------------------------------------------------------

  function ready() {
    const visit = $("visit"), button = $("press");
    if (!visit || !button) return;
    if (visit.dataset.token !== token) {
      token = visit.dataset.token;
      if (socket) socket.close();
      socket = null;
    }
    if (button.disabled) {
      button.disabled = $("hands-free").disabled = false;
      show("idle", "Press and say something, or switch to hands-free and just speak");
    }
  }
  new MutationObserver(ready).observe(document.documentElement, { childList: true, subtree: true });
})();
