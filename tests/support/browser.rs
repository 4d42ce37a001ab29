//! A real browser: headless Chromium, driven over `WebDriver`.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

/// A browser with its driver, ended with its owner.
pub struct Browser {
    driver: Child,
    http: reqwest::Client,
    session: String,
    _profile: tempfile::TempDir,
}

impl Browser {
    pub async fn start(javascript: bool) -> Self {
        let mut driver = Command::new("chromedriver")
            .args(["--port=0", "--allowed-ips=127.0.0.1"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed (make packages)");
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port: u16 = lines
            .map_while(Result::ok)
            .find_map(|line| {
                let rest = line.split("started successfully on port ").nth(1)?;
                rest.trim_end_matches('.').parse().ok()
            })
            .expect("chromedriver says where it listens");
        let profile = tempfile::tempdir().unwrap();
        let arguments = [
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--no-proxy-server".to_owned(),
            "--host-resolver-rules=MAP *.test 127.0.0.1".to_owned(),
            "--window-size=1280,860".to_owned(),
            format!("--user-data-dir={}", profile.path().display()),
        ];
        // 2 is "block".
        let scripts = if javascript { 1 } else { 2 };
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "pageLoadStrategy": "none",
            "goog:chromeOptions": {
                "args": arguments,
                "prefs": { "profile.managed_default_content_settings.javascript": scripts },
            },
        }}});
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let base = format!("http://127.0.0.1:{port}/session");
        let made = http.post(&base).json(&wanted).send().await.unwrap();
        let made: Value = made.json().await.unwrap();
        let id = made["value"]["sessionId"].as_str();
        let id = id.unwrap_or_else(|| panic!("no session: {made}"));
        Self {
            driver,
            session: format!("{base}/{id}"),
            http,
            _profile: profile,
        }
    }

    pub async fn open(&self, url: &str) {
        let to = json!({ "url": url });
        let opened = self.http.post(format!("{}/url", self.session)).json(&to);
        assert_eq!(opened.send().await.unwrap().status(), 200);
    }

    /// The page's source, as the browser has it now; empty while it changes.
    pub async fn source(&self) -> String {
        let asked = self
            .http
            .get(format!("{}/source", self.session))
            .send()
            .await;
        let answer: Value = asked.unwrap().json().await.unwrap();
        answer["value"].as_str().unwrap_or_default().to_owned()
    }

    pub async fn shows(&self, text: &str) -> bool {
        self.source().await.contains(text)
    }

    async fn ask(&self, path: &str, body: &Value) -> Value {
        let asked = self
            .http
            .post(format!("{}/{path}", self.session))
            .json(body);
        let answer: Value = asked.send().await.unwrap().json().await.unwrap();
        assert!(answer["value"]["error"].is_null(), "{path}: {answer}");
        answer["value"].clone()
    }

    /// What a function's body returns in the page.
    pub async fn run(&self, script: &str) -> Value {
        let asked = json!({ "script": script, "args": [] });
        self.ask("execute/sync", &asked).await
    }

    /// Presses keys, one after the other, wherever the focus is. Special ones are those of
    /// `WebDriver` (§17.4.2).
    pub async fn press(&self, keys: &str) {
        let press = |key: char| {
            [
                json!({ "type": "keyDown", "value": key }),
                json!({ "type": "keyUp", "value": key }),
            ]
        };
        let actions: Vec<Value> = keys.chars().flat_map(press).collect();
        let keyboard = json!({ "type": "key", "id": "keyboard", "actions": actions });
        self.ask("actions", &json!({ "actions": [keyboard] })).await;
    }

    /// As if the person had set this in the system.
    pub async fn prefer(&self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        let command = json!({
            "cmd": "Emulation.setEmulatedMedia",
            "params": { "features": [feature] },
        });
        self.ask("goog/cdp/execute", &command).await;
    }

    /// As if the person's screen were so wide.
    pub async fn width(&self, width: u32) {
        let command = json!({
            "cmd": "Emulation.setDeviceMetricsOverride",
            "params": { "width": width, "height": 860, "deviceScaleFactor": 1, "mobile": false },
        });
        self.ask("goog/cdp/execute", &command).await;
    }

    /// Looks at the page on a narrow and on a wide screen, in both themes: nothing is cut off at
    /// its side, and the themes differ. Leaves pictures that begin with `name`.
    pub async fn look_at_all_sides(&self, name: &str) {
        for width in [390, 1280] {
            self.width(width).await;
            let mut seen = Vec::new();
            for theme in ["light", "dark"] {
                self.prefer(theme).await;
                let look = "return [document.documentElement.scrollWidth <= innerWidth, innerWidth, \
                            getComputedStyle(document.body).backgroundColor]";
                let look = self.run(look).await;
                assert_eq!(look[0], true, "{name} at {width}: {look}");
                assert_eq!(look[1], width, "{name}");
                seen.push(look[2].clone());
                self.picture(&format!("{name}-{width}-{theme}.png")).await;
            }
            assert_ne!(seen[0], seen[1], "{name}");
        }
    }

    /// What the page looks like, as PNG; only where somebody wants to have it.
    pub async fn picture(&self, name: &str) {
        let Some(dir) = std::env::var_os("SCREENSHOTS") else {
            return;
        };
        let asked = self.http.get(format!("{}/screenshot", self.session));
        let answer: Value = asked.send().await.unwrap().json().await.unwrap();
        let picture = BASE64.decode(answer["value"].as_str().unwrap()).unwrap();
        let path = std::path::Path::new(&dir).join(name);
        std::fs::write(path, picture).unwrap();
    }

    pub async fn end(mut self) {
        // Closes the browser, too; what is left of the driver is killed.
        let _gone = self.http.delete(&self.session).send().await;
        self.driver.kill().unwrap();
        self.driver.wait().unwrap();
    }
}
