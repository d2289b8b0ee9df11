//! Chromium without a window: found, started, and driven over its debugging pipe.

#![allow(dead_code, reason = "each test binary uses a part")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long the browser may take to answer.
const ANSWER: Duration = Duration::from_secs(60);

const ARGS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
];

/// The browser of this machine. Without one it says so and nothing is tested, except in CI, where it must be there.
pub(crate) fn chromium() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH")?).collect();
    let found = names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|p| p.is_file());
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "CI must have Chromium (Debian's package chromium)");
    if found.is_none() {
        eprintln!("NOT TESTED: there is no Chromium here, so nothing was opened in a browser");
    }
    found
}

/// A command that starts it with an empty profile.
pub(crate) fn command(browser: &Path, profile: &Path) -> Command {
    let mut command = Command::new(browser);
    command.args(ARGS).arg(format!("--user-data-dir={}", profile.display()));
    command
}

/// One page of a browser that runs.
pub(crate) struct Page {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    next: u64,
    session: Option<String>,
    /// Errors of scripts, and what the content security policy refused.
    pub(crate) errors: Vec<String>,
    _profile: TempDir,
}

impl Drop for Page {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Page {
    /// An empty page, whose downloads go to a folder.
    pub(crate) fn new(browser: &Path, downloads: &Path) -> Page {
        let profile = TempDir::new().unwrap();
        // The pipe is expected at the descriptors 3 and 4.
        let chromium = command(browser, profile.path());
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" --remote-debugging-pipe 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh"])
            .arg(chromium.get_program())
            .args(chromium.get_args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, receiver) = channel();
        thread::spawn(move || {
            for message in BufReader::new(from).split(0) {
                let Ok(message) = message else { return };
                if sender.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    return;
                }
            }
        });
        let mut page =
            Page { child, to, from: receiver, next: 0, session: None, errors: Vec::new(), _profile: profile };
        let downloads = downloads.display().to_string();
        page.ask("Browser.setDownloadBehavior", json!({"behavior": "allow", "downloadPath": downloads}));
        let target = page.ask("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let attached = page.ask("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        page.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log"] {
            page.ask(&format!("{domain}.enable"), json!({}));
        }
        page
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": params});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let answer = self.from.recv_timeout(ANSWER).unwrap_or_else(|_| panic!("no answer to {message}"));
            if answer["id"] == self.next {
                assert_eq!(answer["error"], Value::Null, "{message}");
                return answer["result"].clone();
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        let params = &event["params"];
        let wrong = match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Runtime.consoleAPICalled") => params["type"] == "error",
            Some("Log.entryAdded") => params["entry"]["level"] == "error",
            _ => false,
        };
        if wrong {
            self.errors.push(params.to_string());
        }
    }

    pub(crate) fn open(&mut self, url: &str) {
        self.ask("Page.navigate", json!({"url": url}));
    }

    /// What an expression of the page's scripts gives, as if a person had acted.
    pub(crate) fn eval(&mut self, script: &str) -> Value {
        let params = json!({"expression": script, "awaitPromise": true, "returnByValue": true, "userGesture": true});
        let answer = self.ask("Runtime.evaluate", params);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{script}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub(crate) fn until(&mut self, script: &str, patience: Duration) {
        let since = Instant::now();
        while self.eval(script) != true {
            let text = || "document.body.innerText";
            assert!(since.elapsed() < patience, "{script} in\n{}\n{:?}", self.eval(text()), self.errors);
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// A picture of the whole page, `width` wide, in the light or in the dark.
    pub(crate) fn picture(&mut self, width: u32, scheme: &str, file: &Path) {
        let media = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.ask("Emulation.setEmulatedMedia", json!({"features": media}));
        let sized = |height: &Value| json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.ask("Emulation.setDeviceMetricsOverride", sized(&json!(900)));
        let height = self.eval("document.documentElement.scrollHeight");
        self.ask("Emulation.setDeviceMetricsOverride", sized(&height));
        // Charts follow the size of the page with its next frames.
        self.eval("new Promise((done) => setTimeout(done, 300))");
        let png = self.ask("Page.captureScreenshot", json!({"format": "png", "captureBeyondViewport": true}));
        fs::write(file, STANDARD.decode(png["data"].as_str().unwrap()).unwrap()).unwrap();
    }
}
