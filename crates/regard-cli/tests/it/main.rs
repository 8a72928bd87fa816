//! What a user sees of the `regard` command: text, exit codes, files.

mod classification;
mod help;
mod resume;
mod vision;
mod weights;
mod writing;

use std::path::Path;

use assert_cmd::Command;

/// The command, without the colours and settings of whoever runs the tests.
fn regard() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("regard"));
    command
        .env_remove("NO_COLOR")
        .env_remove("CLICOLOR_FORCE")
        .env_remove("REGARD_ISA")
        .env("COLUMNS", "100");
    command
}

/// For training whose scores are looked at: `auto` would depend on the machine.
const F32: [&str; 2] = ["--precision", "f32"];

/// What a run said and how it ended, as one text for a snapshot.
fn seen(command: &mut Command) -> String {
    let output = command.output().expect("the command starts");
    let mut text = String::from_utf8(output.stdout).expect("standard output is UTF-8");
    let told = String::from_utf8(output.stderr).expect("standard error is UTF-8");
    if !told.is_empty() {
        text += &format!("--- standard error\n{told}");
    }
    if !output.status.success() {
        text += &format!(
            "--- exit code {}\n",
            output.status.code().expect("it was not killed")
        );
    }
    text
}

/// Paths of this run as `FOLDER`.
fn without_folder(text: &str, folder: &Path) -> String {
    text.replace(&folder.display().to_string(), "FOLDER")
}
