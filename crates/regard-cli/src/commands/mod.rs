//! One file a command: a struct that clap fills and a `run`.

mod bench;
mod compare;
mod demo;
mod evaluate;
mod explain;
mod info;
mod inspect;
mod predict;
mod train;
mod vision;
mod weights;
mod writing;

use std::path::Path;

use clap::builder::styling::{AnsiColor, Styles};
use clap::{Parser, Subcommand, ValueEnum};
use regard_tasks::sequence_to_sequence::Kind;
use regard_tasks::{bundle, image_recognition};

use crate::failure::Usage;

/// Attention you can train, run and look into.
#[derive(Debug, Parser)]
#[command(name = "regard", version, max_term_width = 100, styles = STYLES, subcommand_required = true)]
#[command(arg_required_else_help = true, after_help = START)]
pub(crate) struct Regard {
    #[command(subcommand)]
    command: Command,
    /// Whether to use colour; `auto` does on a terminal, unless NO_COLOR is set.
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true,
        display_order = 100
    )]
    color: Color,
}

const START: &str = "Start with `regard demo` or `regard demo vision`, or with your own data, for example:\n  \
                     regard train classification --data mails.csv --out model\n  \
                     regard predict model \"You have won a prize\"\n  \
                     regard explain model \"You have won a prize\"\n\n\
                     `regard train` has four tasks: classification, translation, summarization, vision.";

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Train(train::Train),
    Evaluate(evaluate::Evaluate),
    Predict(predict::Predict),
    Explain(explain::Explain),
    Compare(compare::Compare),
    Inspect(inspect::Inspect),
    Weights(weights::Weights),
    Bench(bench::Bench),
    Info(info::Info),
}

/// What the model of a folder does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Does {
    /// Labels texts.
    Classify,
    /// Translates or summarizes.
    Write,
    /// Names what is on a picture.
    See,
}

impl Does {
    fn of(folder: &Path) -> anyhow::Result<Self> {
        let task = bundle::task_of(folder)?;
        Ok(match task.as_str() {
            image_recognition::TASK => Self::See,
            task if Kind::of(task).is_some() => Self::Write,
            _ => Self::Classify,
        })
    }
}

/// The tasks that arguments are for, in words.
const WRITING: &str = "translation and summarization";
const VISION: &str = "image recognition";

/// Refuses arguments that the model at hand has no use for.
fn refuse(said: &[(&str, bool)], tasks: &str) -> Result<(), Usage> {
    match said.iter().find(|(_, said)| *said) {
        Some((name, _)) => Err(Usage::new(format!(
            "{name} is for {tasks}, and this model does something else"
        ))),
        None => Ok(()),
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Color {
    Auto,
    Always,
    Never,
}

impl Regard {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self.color {
            Color::Auto => {}
            Color::Always => anstream::ColorChoice::Always.write_global(),
            Color::Never => anstream::ColorChoice::Never.write_global(),
        }
        // Everything that computes asks for it: said once, here, where it is wrong.
        regard_kernels::Isa::chosen()?;
        match self.command {
            Command::Demo(command) => command.run(),
            Command::Train(command) => command.run(),
            Command::Evaluate(command) => command.run(),
            Command::Predict(command) => command.run(),
            Command::Explain(command) => command.run(),
            Command::Compare(command) => command.run(),
            Command::Inspect(command) => command.run(),
            Command::Weights(command) => command.run(),
            Command::Bench(command) => command.run(),
            Command::Info(command) => command.run(),
        }
    }
}
