const element = (id) => document.getElementById(id);
const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));
const plural = (count, one, many) => `${count} ${count === 1 ? one : many}`;

// Browsers open six connections to a host. The burst takes three, so that payments and the board never wait for it here.
const BURST_CONNECTIONS = 3;

function duration(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

// Sending

function post(url, fields) {
  const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
  const headers = { Accept: "application/json", "X-CSRFToken": token };
  return fetch(url, { method: "POST", headers, body: new URLSearchParams(fields) });
}

/** The answer itself: where the response only accepts the request, that of the dispatch when it is done. */
async function answerOf(response) {
  if (response.status !== 202) return response;
  const accepted = await response.json();
  showAccepted(response, accepted);
  const finished = await follow(accepted, showStatus);
  if (!finished.response) throw new Error(`The dispatch is ${finished.state}. ${problemText(finished.error)}`);
  const stored = await fetch(finished.links.response);
  await showStored(finished, stored.clone());
  return stored;
}

async function read(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(`${response.status}: ${problemText(body)}`);
  return body;
}

function problemText(body) {
  if (!body || typeof body === "string") return body || "";
  return body.detail || body.title || body.error || (body.errors ? JSON.stringify(body.errors) : "");
}

// Following one dispatch: by its event stream, and by long polling if that is interrupted

async function follow(status, onState) {
  if (status.done) return status;
  return (await listen(status.links.events, onState)) ?? longPoll(status.links.self, onState);
}

function listen(url, onState) {
  return new Promise((resolve) => {
    const events = new EventSource(url);
    const end = (status) => {
      events.close();
      resolve(status);
    };
    events.addEventListener("state", (event) => {
      const status = JSON.parse(event.data);
      onState(status);
      if (status.done) end(status);
    });
    events.addEventListener("error", () => end(null));
  });
}

async function longPoll(url, onState) {
  const held = new URL(url, location.href);
  held.searchParams.set("wait", "20");
  for (;;) {
    const status = await read(await fetch(held));
    onState(status);
    if (status.done) return status;
    await pause(250);
  }
}

// The HTTP panel

const SHOWN_HEADERS = ["Location", "Retry-After", "Preference-Applied", "Content-Type"];

function headText(response) {
  const headers = SHOWN_HEADERS.filter((name) => response.headers.has(name));
  const lines = headers.map((name) => `${name}: ${response.headers.get(name)}`);
  return [`HTTP ${response.status} ${response.statusText}`.trim(), ...lines].join("\n");
}

let shownDispatch = null;

function showAccepted(response, status) {
  shownDispatch = status.id;
  element("http-none").hidden = true;
  document.querySelector("#http .exchange").hidden = false;
  element("http-accepted").textContent = `${status.method} ${status.path}\n\n${headText(response)}`;
  element("http-response").textContent = "Not yet.";
  showStatus(status);
}

function showStatus(status) {
  if (status.id !== shownDispatch) return;
  element("http-status").textContent = JSON.stringify(status, null, 2);
}

async function showStored(status, response) {
  const body = await response.text();
  if (status.id !== shownDispatch) return;
  const path = new URL(status.links.response, location.href).pathname;
  element("http-response").textContent = `GET ${path}\n\n${headText(response)}\n\n${pretty(body)}`;
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

// The buttons

async function pay() {
  const order = `web-${Date.now().toString(36)}`;
  const started = performance.now();
  element("pay-status").textContent = `Order ${order} is on its way.`;
  const response = await answerOf(await post(element("pay-form").action, { order, product: element("product").value }));
  const took = performance.now() - started;
  const payment = await read(response);
  element("pay-status").textContent = `Order ${payment.order}: € ${payment.amount} paid.`;
  await showOvertake(payment, took);
}

async function showOvertake(payment, took) {
  const waiting = payment.broker.id ? await countOvertaken(payment.broker.id) : 0;
  const ahead = waiting ? `, ahead of ${plural(waiting, "waiting bulk dispatch", "waiting bulk dispatches")}.` : ". No bulk dispatch was waiting.";
  element("overtake").textContent = `Payment ${payment.payment} answered in ${duration(took)}${ahead}`;
  element("overtake").classList.add("paid");
}

async function countOvertaken(id) {
  const url = element("board").dataset.overtaken.replace(/[0-9a-f-]{36}/, id);
  return (await read(await fetch(url))).waiting;
}

async function sendBurst() {
  const size = element("burst-size").valueAsNumber;
  const run = Date.now().toString(36);
  const tally = { sent: 0, accepted: 0, refused: 0 };
  const sender = async () => {
    while (tally.sent < size) await sendBatch(run, tally.sent++, tally);
  };
  await Promise.all(Array.from({ length: BURST_CONNECTIONS }, sender));
  element("burst-status").textContent = burstText(tally, "Sent");
}

async function sendBatch(run, number, tally) {
  const form = element("burst-form");
  const batches = Number(form.dataset.batches);
  const issue = `${run}-${Math.floor(number / batches) + 1}`;
  const response = await post(`${form.action}batch/${number % batches}/`, { issue });
  tally[response.ok ? "accepted" : "refused"] += 1;
  element("burst-status").textContent = burstText(tally, "Sending");
  if (number === 0) answerOf(response).catch(sayProblem);
  else await response.text();
}

function burstText({ accepted, refused }, verb) {
  const refusals = refused ? `, ${refused} refused` : "";
  return `${verb}: ${plural(accepted, "dispatch", "dispatches")} accepted${refusals}.`;
}

async function sendMessage() {
  const form = element("chat-form");
  const started = performance.now();
  await read(await answerOf(await post(form.action, new FormData(form))));
  element("chat-status").textContent = `Delivered in ${duration(performance.now() - started)}.`;
  element("chat-text").value = "";
  await showChat();
}

async function fetchCatalogue() {
  const started = performance.now();
  const response = await fetch(element("catalogue").dataset.url);
  await response.text();
  const took = duration(performance.now() - started);
  element("catalogue-result").textContent = `Answered ${response.status} in ${took}, by its own view.`;
}

/** Runs an action with its button held, and says what went wrong beside it. */
async function run(button, status, action) {
  button.disabled = true;
  try {
    await action();
  } catch (error) {
    status.textContent = `That did not work. ${error.message}`;
  } finally {
    button.disabled = false;
  }
}

function onSubmit(form, button, status, action) {
  element(form).addEventListener("submit", (event) => {
    event.preventDefault();
    run(element(button), element(status), action);
  });
}

// The board and the chat

function showLane(name, lane) {
  const article = element(`lane-${name}`);
  for (const count of ["queued", "running", "done"]) {
    article.querySelector(`[data-count=${count}]`).textContent = lane[count];
    article.querySelector(`[data-part=${count}]`).style.flexGrow = lane[count];
  }
  const oldest = lane.oldest_wait_ms;
  article.querySelector("[data-oldest]").textContent = oldest === null ? "Nobody is waiting." : `The oldest has waited ${duration(oldest)}.`;
  article.querySelector(".latest").replaceChildren(...lane.latest.map(latestItem));
}

function latestItem(dispatch) {
  const item = document.createElement("li");
  const request = document.createElement("code");
  const times = document.createElement("span");
  request.textContent = request.title = dispatch.request;
  times.textContent = timesText(dispatch);
  times.className = dispatch.state;
  item.append(request, times);
  return item;
}

function timesText({ state, wait_ms: wait, run_ms: ran }) {
  const waited = `waited ${duration(wait)}`;
  if (ran === null) return `${waited}, ${state}`;
  return `${waited}, ran ${duration(ran)}${state === "succeeded" ? "" : `, ${state}`}`;
}

async function showBoard() {
  const { lanes } = await read(await fetch(element("board").dataset.url));
  Object.entries(lanes).forEach(([name, lane]) => showLane(name, lane));
  return Object.values(lanes).some((lane) => lane.queued + lane.running > 0);
}

async function showChat() {
  const { messages } = await read(await fetch(element("chat-form").action));
  const list = element("chat-messages");
  const newest = String(messages[0]?.id ?? "");
  if (list.dataset.newest === newest) return;
  list.dataset.newest = newest;
  list.replaceChildren(...messages.reverse().map(chatItem));
  list.scrollTop = list.scrollHeight;
}

function chatItem({ author, text }) {
  const item = document.createElement("li");
  const name = document.createElement("b");
  name.textContent = author;
  item.append(name, text);
  return item;
}

/** Repeats `show` while the page is in view: quickly while it says that something moves, else calmly. */
async function keep(show, quickly, calmly) {
  for (;;) {
    const moving = document.hidden ? false : await show().catch(sayProblem);
    await pause(moving ? quickly : calmly);
  }
}

function sayProblem(error) {
  element("board-problem").hidden = false;
  element("board-problem").textContent = `The shop cannot be reached. ${error.message}`;
}

async function refreshBoard() {
  const moving = await showBoard();
  element("board-problem").hidden = true;
  return moving;
}

onSubmit("pay-form", "pay", "pay-status", pay);
onSubmit("burst-form", "burst", "burst-status", sendBurst);
onSubmit("chat-form", "chat-send", "chat-status", sendMessage);
element("catalogue").addEventListener("click", () => run(element("catalogue"), element("catalogue-result"), fetchCatalogue));
keep(refreshBoard, 400, 1200);
keep(showChat, 3000, 3000);
