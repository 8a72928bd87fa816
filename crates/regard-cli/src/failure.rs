//! What a user reads when something went wrong, and the exit code that says it to a script.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use owo_colors::OwoColorize;

/// A command line that cannot be meant: exit code 2, as clap does for what it finds itself.
#[derive(Debug)]
pub(crate) struct Usage {
    message: String,
    help: Option<String>,
}

impl Usage {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
        }
    }

    /// Adds what the user can do about it.
    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Usage {}

/// The user stopped the command; what was done so far is kept.
#[derive(Debug)]
pub(crate) struct Interrupted {
    /// What stands now.
    pub(crate) message: String,
    /// How to go on.
    pub(crate) help: String,
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Interrupted {}

/// Says what went wrong on standard error and chooses the exit code.
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        // The reader has seen enough (`regard predict … | head`): that is no failure.
        return ExitCode::SUCCESS;
    }
    let (code, help) = if let Some(usage) = error.downcast_ref::<Usage>() {
        (2, usage.help.clone())
    } else if let Some(interrupted) = error.downcast_ref::<Interrupted>() {
        (130, Some(interrupted.help.clone()))
    } else {
        (1, None)
    };
    let mut text = match code {
        130 => format!("{}: {error}\n", "interrupted".yellow().bold()),
        _ => format!("{}: {error}\n", "error".red().bold()),
    };
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Some errors already tell their cause.
        if !said.contains(&cause) {
            text += &format!("  because: {cause}\n");
            said = cause;
        }
    }
    if let Some(help) = help {
        text += &format!(
            "{}: {}\n",
            "help".cyan().bold(),
            help.replace('\n', "\n      ")
        );
    }
    // Nobody is left to hear that standard error is closed.
    let _ = anstream::stderr().write_all(text.as_bytes());
    ExitCode::from(code)
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        kind == Some(io::ErrorKind::BrokenPipe)
    })
}
