//! Chromium without a screen, told what to do over a pair of pipes (the DevTools
//! protocol): no port that others could connect to, and no library.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// For an answer of the browser, on a machine that does other things.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page, which ends when this is dropped.
pub struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    last: u64,
    session: Option<String>,
    profile: PathBuf,
    /// What it told without being asked.
    pub heard: Vec<Value>,
}

impl Browser {
    /// Starts one; none where Chromium is not installed, which is said, and in CI fails.
    pub fn start() -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        if !is_installed() {
            let words = "Chromium is not installed, and the status page is not looked at: \
                         apt-get install chromium (`cargo xtask test` does)";
            assert!(std::env::var_os("CI").is_none(), "{words}");
            // Not by a macro: tests that pass are heard too.
            let _ = writeln!(std::io::stderr(), "SKIPPED: {words}");
            return None;
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let profile =
            std::env::temp_dir().join(format!("slice-status-page-{}-{number}", std::process::id()));
        fs::create_dir(&profile).unwrap();
        let log = File::create(profile.join("log")).unwrap();
        // It reads descriptor 3 and writes 4.
        let mut child = Command::new("sh")
            .args([
                "-c",
                r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >&2"#,
                "chromium",
            ])
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
            ])
            .args([
                "--disable-sync",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
            ])
            .args(["--no-proxy-server", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let (heard, from) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while out
                .read_until(0, &mut message)
                .is_ok_and(|length| length > 0)
            {
                let value = serde_json::from_slice(&message[..message.len() - 1]);
                if value.is_ok_and(|value| heard.send(value).is_err()) {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Self {
            to: child.stdin.take().unwrap(),
            child,
            from,
            last: 0,
            session: None,
            profile,
            heard: Vec::new(),
        };
        let page = json!({"url": "about:blank"});
        let target = browser.call("Target.createTarget", &page)["targetId"].clone();
        let attach = json!({"targetId": target, "flatten": true});
        let session = browser.call("Target.attachToTarget", &attach)["sessionId"].clone();
        browser.session = Some(session.as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log", "Audits"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        Some(browser)
    }

    /// Has it do something, and tells what it answered.
    pub fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.last += 1;
        let mut message = json!({"id": self.last, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        let mut bytes = serde_json::to_vec(&message).unwrap();
        bytes.push(0);
        self.to.write_all(&bytes).unwrap();
        loop {
            let Ok(mut message) = self.from.recv_timeout(PATIENCE) else {
                let log = fs::read_to_string(self.profile.join("log"));
                panic!(
                    "Chromium does not answer {method}: {}",
                    log.unwrap_or_default()
                );
            };
            if message["id"] != self.last {
                self.heard.push(message);
                continue;
            }
            assert_eq!(message["error"], Value::Null, "{method}");
            return message["result"].take();
        }
    }

    /// The page as a screen of this size and colour shows it.
    pub fn screen(&mut self, width: u32, height: u32, scheme: &str) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let features = json!([
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]);
        self.call("Emulation.setEmulatedMedia", &json!({"features": features}));
    }

    /// Goes there.
    pub fn visit(&mut self, url: &str) {
        let went = self.call("Page.navigate", &json!({"url": url}));
        assert_eq!(went["errorText"], Value::Null, "{url}");
    }

    /// The value of an expression in the page.
    pub fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({
            "expression": expression,
            "returnByValue": true,
            "awaitPromise": true,
            // The page's policy holds for what is asked here too.
            "allowUnsafeEvalBlockedByCSP": false,
        });
        let mut told = self.call("Runtime.evaluate", &parameters);
        assert_eq!(told["exceptionDetails"], Value::Null, "{expression}");
        told["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub fn until(&mut self, expression: &str) {
        let end = Instant::now() + PATIENCE;
        // While the page is not there yet, names are not either.
        let guarded = format!(
            "(() => {{ try {{ return Boolean({expression}); }} catch {{ return false; }} }})()"
        );
        while self.value(&guarded) != true {
            if Instant::now() > end {
                let text = self.value("document.body.innerText");
                panic!(
                    "not in time: {expression}\n{}\n{:?}",
                    text.as_str().unwrap_or(""),
                    self.faults()
                );
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Errors that the page wrote, threw or ran into, and what its policy forbade.
    pub fn faults(&self) -> Vec<String> {
        let is_fault = |message: &&Value| match message["method"].as_str() {
            Some("Runtime.exceptionThrown" | "Audits.issueAdded") => true,
            Some("Runtime.consoleAPICalled") => message["params"]["type"] == "error",
            Some("Log.entryAdded") => message["params"]["entry"]["level"] == "error",
            _ => false,
        };
        let faults = self.heard.iter().filter(is_fault);
        faults
            .map(|message| message["params"].to_string())
            .collect()
    }

    /// A picture of the page as it is, into this file.
    pub fn picture(&mut self, path: &std::path::Path) {
        let told = self.call("Page.captureScreenshot", &json!({"format": "png"}));
        fs::write(path, from_base64(told["data"].as_str().unwrap())).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its children end when it does, and may write meanwhile.
        for _ in 0..50 {
            if fs::remove_dir_all(&self.profile).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join("chromium").is_file())
}

fn from_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |byte| DIGITS.iter().position(|digit| *digit == byte);
    let digits: Vec<usize> = text.bytes().map_while(digit).collect();
    let group = |four: &[usize]| {
        let bits = four
            .iter()
            .enumerate()
            .fold(0, |bits, (place, digit)| bits | digit << (18 - 6 * place));
        let bytes = [bits >> 16, bits >> 8, bits].map(|byte| u8::try_from(byte & 0xff).unwrap());
        bytes[..four.len() - 1].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}
