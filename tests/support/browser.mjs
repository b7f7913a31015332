// A real Chromium without a window, driven over its DevTools protocol: by key presses as a person without a mouse makes
// them, and by questions to the page. `CHROMIUM` names another program than those that are looked for.
import { spawn } from "node:child_process";
import { accessSync, constants, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";

import WebSocket from "ws";

import { eventually } from "./harness.mjs";

const NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
const FLAGS = [
  "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-proxy-server", "--remote-debugging-port=0",
];
const KEYS = {
  Tab: { code: "Tab", windowsVirtualKeyCode: 9 },
  Enter: { code: "Enter", windowsVirtualKeyCode: 13, text: "\r" },
  " ": { code: "Space", windowsVirtualKeyCode: 32, text: " " },
};

function program() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  for (const directory of process.env.PATH.split(delimiter)) {
    for (const name of NAMES) {
      try {
        accessSync(join(directory, name), constants.X_OK);
        return join(directory, name);
      } catch {
        // not here
      }
    }
  }
  throw new Error("the page is tested in a real Chromium: install one (on Debian: apt-get install chromium), or name one in CHROMIUM");
}

export class Browser {
  #directory = mkdtempSync(join(tmpdir(), "clawdentity-browser-"));
  #calls = new Map();
  #last = 0;

  static async open() {
    const browser = new Browser();
    await browser.#up();
    return browser;
  }

  async #up() {
    this.process = spawn(program(), [...FLAGS, `--user-data-dir=${this.#directory}`, "about:blank"], { stdio: "ignore" });
    const port = await eventually(() => this.#port(), { what: "Chromium's port" });
    const targets = await (await fetch(`http://127.0.0.1:${port}/json/list`)).json();
    const { webSocketDebuggerUrl } = targets.find(({ type }) => type === "page");
    this.socket = new WebSocket(webSocketDebuggerUrl);
    await new Promise((resolve, reject) => this.socket.once("open", resolve).once("error", reject));
    this.socket.on("message", (data) => {
      const { id, result, error } = JSON.parse(data);
      const call = this.#calls.get(id);
      this.#calls.delete(id);
      if (error) call?.reject(new Error(error.message));
      else call?.resolve(result);
    });
  }

  #port() {
    if (this.process.exitCode !== null) throw new Error(`Chromium ended with ${this.process.exitCode}`);
    try {
      return readFileSync(join(this.#directory, "DevToolsActivePort"), "utf8").split("\n")[0];
    } catch {
      return undefined; // not yet
    }
  }

  async close() {
    const ended = new Promise((resolve) => this.process.once("exit", resolve));
    this.socket?.close();
    this.process.kill();
    await ended;
    rmSync(this.#directory, { recursive: true, force: true, maxRetries: 5 });
  }

  send(method, params = {}) {
    const id = ++this.#last;
    this.socket.send(JSON.stringify({ id, method, params }));
    return new Promise((resolve, reject) => this.#calls.set(id, { resolve, reject }));
  }

  /** What this expression is worth in the page. */
  async ask(expression) {
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  /** Runs `act`, which leaves the page, and waits until the next one is there. */
  async leave(act) {
    await this.ask("window.before = true");
    await act();
    await eventually(() => this.ask("!window.before && document.readyState === 'complete'").catch(() => false), { what: "the next page" });
  }

  go(url) {
    return this.leave(() => this.send("Page.navigate", { url }));
  }

  async press(key) {
    await this.send("Input.dispatchKeyEvent", { type: "keyDown", key, ...KEYS[key] });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", key, ...KEYS[key] });
  }

  type(text) {
    return this.send("Input.insertText", { text });
  }

  /** What has the focus, as a person would call it. */
  focused() {
    return this.ask(`(() => {
      const at = document.activeElement;
      if (!at || at === document.body) return "";
      return at.labels?.[0]?.innerText ?? at.getAttribute("aria-label") ?? at.innerText.trim();
    })()`);
  }

  /** Presses Tab until what is called so has the focus; the focus must be visible there. */
  async tabTo(name) {
    const passed = [];
    for (let n = 0; n < 150; n++) {
      await this.press("Tab");
      const at = await this.focused();
      if (at === name) {
        const outline = await this.ask("getComputedStyle(document.activeElement).outlineStyle");
        if (outline === "none") throw new Error(`${name} does not show that it has the focus`);
        return;
      }
      passed.push(at);
    }
    throw new Error(`no Tab comes to ${name}, but to ${[...new Set(passed)].join(", ")}`);
  }

  look({ width, scheme }) {
    const features = [{ name: "prefers-color-scheme", value: scheme }];
    return Promise.all([
      this.send("Emulation.setDeviceMetricsOverride", { width, height: 800, deviceScaleFactor: 1, mobile: false }),
      this.send("Emulation.setEmulatedMedia", { features }),
    ]);
  }

  async picture(path) {
    const { data } = await this.send("Page.captureScreenshot", { format: "png", captureBeyondViewport: true });
    writeFileSync(path, Buffer.from(data, "base64"));
  }
}
