// What the page remembers: the conversation and settings in localStorage, the API key for this tab only.

const CONVERSATION = "penstock.conversation.v1";
const SETTINGS = "penstock.settings.v1";
const DRAFT = "penstock.draft";
const KEY = "penstock.key";

/** What the page sends unless told otherwise; null leaves the choice to the server. */
export const DEFAULT_SETTINGS = Object.freeze({
  system: "",
  temperature: 0.6,
  top_p: 0.9,
  max_tokens: null,
  seed: null,
  stop: "",
  model: "",
});

function read(area, name) {
  try {
    return area().getItem(name);
  } catch {
    return null; // storage is switched off in this browser: nothing is remembered
  }
}

/** True if it was stored. */
function write(area, name, value) {
  try {
    if (value === "") area().removeItem(name);
    else area().setItem(name, value);
    return true;
  } catch {
    return false; // switched off, or full
  }
}

const local = () => window.localStorage;
const session = () => window.sessionStorage;

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null; // written by something else: start afresh
  }
}

/** The stored messages, without any that are not of the shape this page writes. */
export function loadConversation() {
  const messages = parsed(read(local, CONVERSATION));
  if (!Array.isArray(messages)) return [];
  const roles = new Set(["user", "assistant"]);
  return messages.filter((m) => m && roles.has(m.role) && typeof m.content === "string");
}

export const saveConversation = (messages) =>
  write(local, CONVERSATION, messages.length ? JSON.stringify(messages) : "");

export function loadSettings() {
  const stored = parsed(read(local, SETTINGS)) ?? {};
  const settings = { ...DEFAULT_SETTINGS };
  for (const [name, standard] of Object.entries(DEFAULT_SETTINGS)) {
    const value = stored[name];
    const isText = typeof standard === "string";
    if (isText ? typeof value === "string" : value === null || Number.isFinite(value)) settings[name] = value;
  }
  return settings;
}

export const saveSettings = (settings) => write(local, SETTINGS, JSON.stringify(settings));

export const loadKey = () => read(session, KEY) ?? "";
export const saveKey = (key) => write(session, KEY, key);

export const loadDraft = () => read(session, DRAFT) ?? "";
export const saveDraft = (text) => write(session, DRAFT, text);
