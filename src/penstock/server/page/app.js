// Puts the page together.

import { Announcer } from "./announcer.js";
import { Chat } from "./chat.js";
import { Composer } from "./composer.js";
import { LiveFigures } from "./figures.js";
import { StickyScroll } from "./scrolling.js";
import { ServerStatus } from "./server-status.js";
import { Settings } from "./settings.js";
import { Transcript } from "./transcript.js";

const $ = (selector) => document.querySelector(selector);

const settings = new Settings($("#settings"));
const status = new ServerStatus();
const chat = new Chat(() => ({ settings: settings.values, context: status.contextOf(settings.values.model) }));
const transcript = new Transcript($("#messages"), chat);
const figures = new LiveFigures($("#live"));
const announcer = new Announcer($("#announcer"));
const scroll = new StickyScroll($("#scroll"), $("#content"), $("#jump"));
const composer = new Composer($("#composer"), { onsend: send, onstop: () => chat.stop() });

/** Sends if the server can answer; else the text stays where it is and the banner says why. */
async function send(text) {
  if (chat.isBusy) return false;
  if (status.state !== "ready" && !(await status.check())) {
    $("#banner").classList.add("is-noticed");
    return false;
  }
  chat.send(text);
  scroll.stick();
  return true;
}

chat.addEventListener("change", ({ detail: reply }) => {
  $("#empty").hidden = chat.messages.length > 0;
  $("#clear").disabled = chat.messages.length === 0;
  $("#unsaved").hidden = chat.isStored;
  composer.setBusy(chat.isBusy);
  if (chat.isBusy) $("#undo").hidden = true;
  if (!reply) {
    if (document.activeElement === document.body) composer.focus(); // the button that was pressed is gone
    return;
  }
  if (!chat.messages.includes(reply)) return; // of a conversation that was cleared meanwhile
  figures.reply(reply.figures, { final: !chat.isBusy });
  if (chat.isBusy) announcer.follow(reply);
});

chat.addEventListener("spoken", ({ detail: reply }) => {
  composer.setBusy(false);
  announcer.finish(reply);
  if (reply.error?.status === 401) status.recheck();
  else status.check(); // an error may mean that the server is going; and the load has just changed
});

// --- the server's state -------------------------------------------------------------------------------------------

const SAYINGS = {
  connecting: ["Connecting", ""],
  ready: ["Ready", ""],
  loading: ["Starting", "The server is up but not ready yet. This page goes on as soon as it is."],
  locked: ["Key needed", "The server asks for an API key."],
  refused: ["Refused", "The server does not let this page in."],
  offline: ["Offline", "The server can’t be reached. Trying again every two seconds."],
};

status.addEventListener("change", () => {
  const [word, sentence] = SAYINGS[status.state];
  $("#state").dataset.state = status.state;
  $("#state-word").textContent = word;
  $("#banner").hidden = !sentence;
  $("#banner").classList.remove("is-noticed");
  $("#banner-text").textContent = sentence;
  $("#banner-reason").textContent = status.state === "offline" ? "" : status.reason;
  $("#enter-key").hidden = status.state !== "locked";
  if (status.state === "ready") introduce();
  else figures.server({});
});
status.addEventListener("load", ({ detail }) => figures.server(detail));
settings.addEventListener("key", () => status.recheck());
$("#enter-key").addEventListener("click", () => settings.open("key"));

/** Names the model; offers a choice where there is one. */
function introduce() {
  const names = status.models.map((model) => model.id);
  const chosen = names.includes(settings.values.model) ? settings.values.model : (names[0] ?? "");
  const select = $("#model");
  select.replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  select.disabled = names.length < 2;
  $("#empty-model").textContent = chosen;
  $("#server-version").textContent = status.version?.version ? `Penstock ${status.version.version}` : "";
  if (chosen !== settings.values.model) settings.set("model", chosen);
}

$("#model").addEventListener("change", (event) => {
  settings.set("model", event.target.value);
  $("#empty-model").textContent = event.target.value;
});

// --- buttons and keys ---------------------------------------------------------------------------------------------

$("#open-settings").addEventListener("click", () => settings.open());
$("#close-settings").addEventListener("click", () => $("#settings").close());

$("#clear").addEventListener("click", () => {
  const old = chat.clear();
  figures.forgetReply();
  $("#undo").hidden = false;
  $("#undo-button").onclick = () => {
    chat.restore(old);
    $("#undo").hidden = true;
    composer.focus();
  };
  composer.focus();
});

for (const button of document.querySelectorAll("[data-prompt]")) {
  button.addEventListener("click", async () => {
    if (!(await send(button.dataset.prompt))) composer.write(button.dataset.prompt);
    composer.focus();
  });
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && chat.isBusy && !$("#settings").open) chat.stop();
  if (event.key === "ArrowUp" && event.target.matches("#composer textarea") && !event.target.value) {
    event.preventDefault();
    transcript.editLast();
  }
});
window.addEventListener("pagehide", () => chat.save());

chat.dispatchEvent(new CustomEvent("change", { detail: null }));
status.start();
composer.focus();
