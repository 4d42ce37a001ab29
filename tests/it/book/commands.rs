//! The commands that the book shows.
//!
//! Guarantees: a command of ours is one if the program's own parser takes it; a target of `make` or
//! a script is one if it is there.

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser as _};
use wakegate::cli::Arguments;

use super::pages::{Block, root};

/// The commands of a block: those behind a prompt, or, where nothing is shown but commands, all.
pub fn of(block: &Block) -> Vec<String> {
    let mut commands = Vec::new();
    let mut open = String::new();
    for line in block.text.lines() {
        let command = match (block.is("console"), open.is_empty()) {
            (true, true) => line.strip_prefix("$ "),
            _ => Some(line),
        };
        let Some(command) = command else { continue };
        match command.strip_suffix('\\') {
            Some(begun) => open.push_str(begun),
            None => commands.push(std::mem::take(&mut open) + command),
        }
    }
    commands
}

/// The words of a command line, in simple commands.
fn simple_commands(line: &str) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    let mut word = String::new();
    let (mut quote, mut depth, mut is_word) = (None, 0_usize, false);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            (_, Some(mark)) if letter == mark => quote = None,
            (_, Some(_)) => word.push(letter),
            ('\'' | '"', None) if depth == 0 => (quote, is_word) = (Some(letter), true),
            ('$', None) if letters.peek() == Some(&'(') => {
                word.push(letter);
                is_word = true;
            }
            ('(', None) => {
                (depth, is_word) = (depth + 1, true);
                word.push(letter);
            }
            (')', None) => {
                depth = depth.saturating_sub(1);
                word.push(letter);
            }
            // What follows is a remark.
            ('#', None) if !is_word && depth == 0 => break,
            (' ' | '|' | ';' | '&' | '>' | '<', None) if depth == 0 => {
                if std::mem::take(&mut is_word) {
                    all.last_mut().unwrap().push(std::mem::take(&mut word));
                }
                if letter != ' ' {
                    all.push(Vec::new());
                }
            }
            _ => {
                is_word = true;
                word.push(letter);
            }
        }
    }
    if is_word {
        all.last_mut().unwrap().push(word);
    }
    all.retain(|words| !words.is_empty());
    all
}

/// Our program's arguments, if a simple command runs it.
fn arguments(words: &[String]) -> Option<Vec<String>> {
    let is_assignment = |word: &&String| {
        word.split_once('=').is_some_and(|(name, _)| {
            name.bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        })
    };
    let before = |word: &&String| is_assignment(word) || *word == "sudo" || *word == "exec";
    let words: Vec<String> = words.iter().skip_while(before).cloned().collect();
    let (program, rest) = words.split_first()?;
    let name = program.rsplit('/').next()?;
    match (name, rest.first().map(String::as_str)) {
        // The other program has the same arguments under other names.
        ("wakegate-local", Some("serve")) => {
            let rest = rest.iter().skip(1).cloned();
            Some(std::iter::once("local".to_owned()).chain(rest).collect())
        }
        ("wakegate" | "wakegate-new" | "wakegate-local", _) => Some(rest.to_vec()),
        ("cargo", Some("run")) => {
            let own = rest.iter().skip_while(|word| *word != "--").skip(1);
            Some(own.cloned().collect())
        }
        _ => None,
    }
}

/// What is wrong with a command line; nothing, where it runs nothing of ours.
pub fn problem(line: &str) -> Option<String> {
    let makefile = std::fs::read_to_string(root().join("Makefile")).unwrap();
    simple_commands(line).iter().find_map(|words| {
        if let Some(arguments) = arguments(words) {
            let all = std::iter::once("wakegate".to_owned()).chain(arguments);
            let error = Arguments::try_parse_from(all).err()?;
            let is_fine = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            return (!is_fine).then(|| error.to_string());
        }
        let (program, rest) = words.split_first()?;
        if program == "make" {
            let mut targets = rest.iter().filter(|word| !word.contains('='));
            let missing = targets.find(|target| {
                let rule = format!("{target}:");
                !makefile.lines().any(|line| line.starts_with(&rule))
            });
            return missing.map(|target| format!("make has no target `{target}`"));
        }
        let is_ours = ["deploy/", "benches/", "fuzz/"];
        let is_ours = is_ours.iter().any(|folder| program.starts_with(folder));
        (is_ours && !root().join(program).exists()).then(|| format!("there is no {program}"))
    })
}

/// What is wrong with a command that is mentioned in a sentence. It may leave out what is needed.
pub fn mentioned_problem(text: &str) -> Option<String> {
    let words = simple_commands(text);
    let arguments = arguments(words.first()?)?;
    let all = std::iter::once("wakegate".to_owned()).chain(arguments);
    let error = Arguments::try_parse_from(all).err()?;
    let is_fine = matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            | ErrorKind::MissingSubcommand
            | ErrorKind::MissingRequiredArgument
    );
    (!is_fine).then(|| error.to_string())
}

/// Every command and its help, in the order of the program's own.
pub fn helps() -> Vec<(String, String)> {
    let mut command = Arguments::command().term_width(100);
    command.build();
    let mut all = Vec::new();
    describe(&command, "wakegate", &mut all);
    all
}

fn describe(command: &clap::Command, name: &str, all: &mut Vec<(String, String)>) {
    let mut own = command.clone().term_width(100).bin_name(name);
    let help = own.render_long_help().to_string();
    let lines = help.lines().map(str::trim_end);
    all.push((name.to_owned(), lines.collect::<Vec<_>>().join("\n")));
    for below in command.get_subcommands() {
        if !below.is_hide_set() && below.get_name() != "help" {
            describe(below, &format!("{name} {}", below.get_name()), all);
        }
    }
}

#[test]
fn a_command_is_read_as_a_shell_reads_it() {
    let line = "A=$(cat ~/x y) wakegate wake 'a b' \"c d\" | head -1 && sudo make deb  # why";
    let words = simple_commands(line);
    let words: Vec<Vec<&str>> = words
        .iter()
        .map(|words| words.iter().map(String::as_str).collect())
        .collect();
    assert_eq!(
        words,
        [
            vec!["A=$(cat ~/x y)", "wakegate", "wake", "a b", "c d"],
            vec!["head", "-1"],
            vec!["sudo", "make", "deb"],
        ]
    );
    assert_eq!(problem(line), None);
    for wrong in [
        "wakegate serv -c x",
        "HYPEMAN_API_KEY=x wakegate serve --confg x",
        "true && wakegate local run web",
        "wakegate-local serve --prot 1",
        "make dinner",
        "deploy/nothing",
    ] {
        assert!(problem(wrong).is_some(), "{wrong}");
    }
    assert_eq!(mentioned_problem("wakegate local run web"), None);
    assert!(mentioned_problem("wakegate local --drivr qemu").is_some());
}
