// Keeps the page up to date by server-sent events, and sends what the box to try a model holds.
// All words and numbers are the server's; here they are only put in their places, as text.

const SILENT_MS = 30000; // the server says something every ten seconds
const SHORTEST_MS = 1000;
const LONGEST_MS = 10000;

let token = ""; // in this variable alone
let following = null;
let wanted = ""; // the model that was chosen: it may be gone for a while, as when the server starts again

const byId = (id) => document.getElementById(id);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token) headers.set("authorization", `Bearer ${token}`);
  return fetch(path, { ...options, headers, cache: "no-store", redirect: "error" });
}

function say(id, words) {
  const place = byId(id);
  if (place && place.textContent !== words) place.textContent = words;
}

const parsed = (html) => new DOMParser().parseFromString(html, "text/html");

// The whole page: the first time, after signing in, and when a token is no longer good.
function show(html) {
  const page = parsed(html);
  document.title = page.title;
  document.body.replaceChildren(...page.body.childNodes);
  start();
}

function start() {
  following?.abort();
  following = null;
  for (const note of document.querySelectorAll(".no-script")) note.remove();
  if (byId("sign-in")) {
    byId("sign-in").addEventListener("submit", signIn);
    byId("token").focus();
    return;
  }
  offer();
  byId("try-form")?.addEventListener("submit", attempt);
  byId("try-model")?.addEventListener("change", () => {
    wanted = byId("try-model").value;
    choose();
  });
  following = new AbortController();
  follow(following.signal);
}

async function signIn(event) {
  event.preventDefault();
  if (!isSecureContext) {
    say("sign-in-error", "This page came without TLS, so a token would travel in clear. Open it by https, or on the server’s own machine.");
    return;
  }
  token = byId("token").value.trim();
  let words = "The server did not answer.";
  try {
    const answer = await ask("/");
    if (answer.ok) return show(await answer.text());
    words = answer.status === 401 ? "That token is not one that this server knows." : `The server answered ${answer.status}.`;
  } catch (error) {
    if (error instanceof TypeError && token.match(/[^!-~]/)) words = "A token is one word of ASCII.";
  }
  token = "";
  say("sign-in-error", words);
}

// Numbers

async function follow(signal) {
  let pause = SHORTEST_MS;
  while (!signal.aborted) {
    if (document.hidden) {
      say("connection", "Paused while nobody looks.");
      await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
      continue;
    }
    let why = "The server cannot be reached. Trying again …";
    try {
      const heard = await listen(signal);
      if (heard === 401) return show(await (await ask("/")).text());
      if (heard === 503) why = "Many follow this server already. Trying again …";
      if (heard === 200) {
        pause = SHORTEST_MS;
        continue;
      }
    } catch {
      // It is said below, and tried again.
    }
    if (signal.aborted) return;
    say("connection", why);
    await sleep(pause * (0.75 + Math.random() / 2)); // not all pages at once
    pause = Math.min(2 * pause, LONGEST_MS);
  }
}

// Takes the events of one stream; returns the status of its answer once it has ended.
async function listen(signal) {
  const mine = new AbortController();
  const stop = () => mine.abort();
  const leave = () => document.hidden && stop();
  signal.addEventListener("abort", stop);
  document.addEventListener("visibilitychange", leave);
  let silence = setTimeout(stop, SILENT_MS);
  try {
    const answer = await ask("/page/events", { signal: mine.signal });
    if (!answer.ok) return answer.status;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    let heard = 0;
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return heard ? answer.status : 0;
      clearTimeout(silence);
      silence = setTimeout(stop, SILENT_MS);
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ")) continue;
        await take(JSON.parse(event.slice(6)));
        heard += 1;
        say("connection", "Live: the numbers renew themselves.");
      }
    }
  } catch (error) {
    if (document.hidden) return 200;
    throw error;
  } finally {
    clearTimeout(silence);
    signal.removeEventListener("abort", stop);
    document.removeEventListener("visibilitychange", leave);
  }
}

async function take(event) {
  if (event.structure && event.structure !== byId("live").dataset.structure) await redraw();
  for (const place of document.querySelectorAll("[data-value]")) {
    const words = event.values[place.dataset.value];
    if (words !== undefined && place.textContent !== words) place.textContent = words;
  }
  for (const bar of document.querySelectorAll("[data-bar]")) {
    const place = event.bars[bar.dataset.bar];
    if (place !== undefined) bar.setAttribute(bar.dataset.side, place);
  }
}

// Other models, or other states: the server draws that part anew. What is open stays open, and the focus where it is.
async function redraw() {
  const answer = await ask("/");
  if (!answer.ok) throw new Error(`the page's status is ${answer.status}`);
  const fresh = parsed(await answer.text()).getElementById("live");
  const old = byId("live");
  for (const details of old.querySelectorAll("details")) {
    const same = fresh.querySelector(`#${CSS.escape(details.id)}`);
    if (same) same.open = details.open;
  }
  const focused = old.contains(document.activeElement) ? document.activeElement : null;
  const link = focused?.getAttribute("href");
  const details = focused?.closest("details")?.id;
  old.replaceWith(fresh);
  if (link) fresh.querySelector(`a[href="${CSS.escape(link)}"]`)?.focus();
  else if (details) fresh.querySelector(`#${CSS.escape(details)} summary`)?.focus();
  offer();
}

// The box

function offer() {
  const select = byId("try-model");
  if (!select) return;
  const choices = [...document.querySelectorAll("#choices > span")];
  if (!choices.length) return; // while the server loads its models, what is being written stays
  select.replaceChildren(
    ...choices.map((choice) => {
      const { name, version } = choice.dataset;
      const option = new Option(`${name}, version ${version}`, `${encodeURIComponent(name)}/versions/${version}`);
      Object.assign(option.dataset, choice.dataset);
      return option;
    }),
  );
  if ([...select.options].some((option) => option.value === wanted)) select.value = wanted;
  byId("try-form").hidden = false;
  choose();
}

function choose() {
  const { takes, budget, mask, inputs } = byId("try-model").selectedOptions[0].dataset;
  for (const part of document.querySelectorAll("#try-form [data-for]")) {
    const kind = part.dataset.for;
    part.hidden = kind === "budget" ? budget !== "yes" : kind !== takes;
  }
  say("try-mask", mask ? `Write ${mask} where a word is to be filled in.` : "");
  say("try-inputs", `Its inputs, without the batch axis: ${inputs}.`);
}

async function attempt(event) {
  event.preventDefault();
  const button = byId("try-send");
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true"); // it keeps the focus
  say("try-error", "");
  say("try-answer", "Running …");
  try {
    const path = `/page/models/${byId("try-model").value}`;
    const body = JSON.stringify(await asked());
    const answer = await ask(path, { method: "POST", body, headers: { "content-type": "application/json" } });
    const text = await answer.text();
    if (!answer.ok) throw new Error(wordsOf(text, answer.status));
    byId("try-result").replaceChildren(...parsed(text).body.childNodes);
    say("try-answer", "Answered; the result is below.");
  } catch (error) {
    byId("try-result").replaceChildren();
    say("try-answer", "");
    say("try-error", error instanceof TypeError ? "The server cannot be reached." : error.message);
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

async function asked() {
  const { takes, budget } = byId("try-model").selectedOptions[0].dataset;
  const share = budget === "yes" ? { budget: Number(byId("try-budget").value) } : {};
  if (takes === "text") return { instances: [byId("try-text").value], ...share };
  if (takes === "image") {
    const [file] = byId("try-image").files;
    if (!file) throw new Error("Choose an image file first.");
    return { instances: [{ image: { b64: await base64(file) } }], ...share };
  }
  const json = byId("try-json").value.trim();
  if (!json) return { example: true, ...share };
  try {
    return { instances: [JSON.parse(json)], top: 5, ...share };
  } catch (error) {
    throw new Error(`That is not JSON: ${error.message}.`);
  }
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error("The file cannot be read."));
    reader.readAsDataURL(file);
  });
}

function wordsOf(text, status) {
  try {
    return JSON.parse(text).error;
  } catch {
    return `The server answered ${status}.`;
  }
}

start();
