//! The tutorial, done as it is written.
//!
//! Guarantees: its files are saved and its commands run in their order, in a folder of their own;
//! what they print is what the page shows. Only the ports are others, since many tests run at once.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use super::commands;
use super::pages::{Block, book};
use crate::support::reserved::Reserved;
use crate::support::skips::{Lacking, skip};
use crate::support::{BINARY, Home, Program, eventually, without_settings};

const PAGE: &str = "docs/tutorial/your-own-app.md";
/// The ports that the page names.
const PORTS: [u16; 3] = [4973, 8080, 9900];

/// Who does what the page says.
struct Reader {
    home: Home,
    ports: [Reserved; 3],
    background: Vec<Program>,
}

/// Whether a line is as expected; `…` stands for anything, and several blanks for one.
fn fits(line: &str, expected: &str) -> bool {
    let plain = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (line, expected) = (plain(line), plain(expected));
    let mut pieces = expected.split('…').map(str::trim);
    let Some(mut rest) = pieces.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let mut is_open = false;
    for piece in pieces {
        let Some((_, after)) = rest.split_once(piece) else {
            return false;
        };
        (rest, is_open) = (after, piece.is_empty());
    }
    is_open || rest.is_empty()
}

/// The first expected line that was not printed, in the order in which they are shown.
fn missing<'a>(shown: &'a str, printed: &str) -> Option<&'a str> {
    let mut lines = printed.lines();
    let expected = shown.lines().filter(|line| !line.starts_with("$ "));
    let mut expected = expected.filter(|line| line.trim() != "…" && !line.trim().is_empty());
    expected.find(|expected| !lines.any(|line| fits(line, expected)))
}

// === impl Reader ===

impl Reader {
    fn new() -> Self {
        Self {
            home: Home::new(),
            ports: [(); 3].map(|()| Reserved::new()),
            background: Vec::new(),
        }
    }

    /// The same text with this reader's ports.
    fn own(&self, text: &str) -> String {
        let pairs = PORTS.iter().zip(&self.ports);
        pairs.fold(text.to_owned(), |text, (port, own)| {
            text.replace(&format!(":{port}"), &format!(":{}", own.port()))
        })
    }

    fn shell(&self, command: &str) -> Command {
        let [api, _, admin] = &self.ports;
        let command = match command {
            "wakegate local" => format!("{command} --api-listen {}", api.address),
            command => self.own(command),
        };
        let own = Path::new(BINARY).parent().unwrap().to_owned();
        let others = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(own).chain(std::env::split_paths(&others));
        let path = std::env::join_paths(folders).unwrap();
        let mut shell = without_settings(Command::new("bash"));
        shell
            .args(["-c", &command])
            .current_dir(self.home.path())
            .env("PATH", path)
            .env("HOME", self.home.path())
            .env_remove("XDG_STATE_HOME")
            .env("no_proxy", "localhost,127.0.0.1")
            .env("WAKEGATE_ADMIN_ADDRESS", admin.address.to_string())
            .stdin(Stdio::null());
        shell
    }

    fn run(&self, block: &Block) {
        let mut printed = String::new();
        for command in commands::of(block) {
            let output = self.shell(&command).output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            assert!(output.status.success(), "{command}: {said}");
            printed.push_str(&said);
        }
        let shown = self.own(&block.text);
        let missing = missing(&shown, &printed);
        assert_eq!(missing, None, "{}: {printed}", block.place);
    }

    /// Starts what goes on, and waits until it prints what is shown and answers.
    async fn start(&mut self, block: &Block) {
        for command in commands::of(block) {
            let file = self
                .home
                .path()
                .join(format!("out-{}", self.background.len()));
            let out = File::create(&file).unwrap();
            let mut shell = self.shell(&command);
            shell.stderr(out.try_clone().unwrap()).stdout(out);
            self.background.push(Program(shell.spawn().unwrap()));
            let shown = self.own(&block.text);
            eventually(&command, async || {
                let printed = std::fs::read_to_string(&file).unwrap();
                missing(&shown, &printed).is_none()
            })
            .await;
            if command.contains("wakegate serve") {
                let url = format!("http://{}/readyz", self.ports[2].address);
                eventually("the gateway serves", async || {
                    let answer = reqwest::get(&url).await;
                    answer.is_ok_and(|answer| answer.status() == 200)
                })
                .await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tutorial_goes_as_it_says() {
    for tool in ["bash", "curl", "python3"] {
        let mut look = Command::new(tool);
        if look.arg("--version").output().is_err() {
            return skip(Lacking::Tool, &format!("there is no {tool}"));
        }
    }
    let pages = book();
    let page = pages.iter().find(|page| page.name() == PAGE).unwrap();
    let mut reader = Reader::new();
    let mut steps = 0;
    for block in page.blocks() {
        if let Some(name) = block.file() {
            let path = reader.home.path().join(name);
            std::fs::write(path, reader.own(&block.text)).unwrap();
        } else if block.is("background") {
            reader.start(&block).await;
        } else if block.is("console") {
            let reader = &reader;
            tokio::task::block_in_place(|| reader.run(&block));
        } else {
            panic!("{}: what is its reader to do?", block.place);
        }
        steps += 1;
    }
    assert!(steps >= 9, "{steps} steps");
    let web = reader.shell("wakegate instances ls").output().unwrap();
    let left = String::from_utf8(web.stdout).unwrap();
    assert_eq!(left.lines().count(), 1, "the instance is removed: {left}");
}

#[test]
fn what_is_shown_is_compared_with_what_is_printed() {
    assert!(fits("web  10.0.0.1   Standby", "web … Standby"));
    assert!(fits("took 5 ms", "took … ms") && fits("visit 2", "visit 2"));
    assert!(!fits("visit 21", "visit 2") && !fits("no visit 2", "visit 2"));
    assert!(fits("HYPEMAN_API_KEY=abc", "HYPEMAN_API_KEY=…"));
    assert!(!fits("web 10.0.0.1 Running", "web … Standby"));
    assert_eq!(missing("$ x\na\n…\nc\n", "a\nb\nc\n"), None);
    assert_eq!(missing("$ x\nc\na\n", "a\nb\nc\n"), Some("a"));
}
