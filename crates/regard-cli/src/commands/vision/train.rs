use std::path::PathBuf;

use clap::Args;
use regard_tasks::image_recognition::{self, TrainRequest};
use regard_tasks::pictures::PictureColumns;

use crate::commands::train::{
    PrecisionChoice, check_minutes, quoted, resume_command, summary, watched,
};
use crate::settings;
use crate::terminal::{print, tell};

/// Learn to name what is on pictures: from a folder with a folder for each label.
///
/// Nothing but --data and --out is needed. Folders `train`, `test` and `validation` in it are taken for what they say; IDX
/// files (MNIST's format) and tables with paths or bytes of pictures are read, too. Every picture is checked before the
/// first step: what cannot be read is left out, counted and named.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  regard train vision --data pictures --out model\n  \
                        regard train vision --data photos.csv --test more.csv --out model --minutes 20 --set picture_height=64"
)]
pub(crate) struct Vision {
    /// Folder of pictures, or a table of them.
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Folder to write the model to.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Pictures to stop early on [default: a part of --data is held out].
    #[arg(long, value_name = "PATH")]
    validation: Option<PathBuf>,
    /// Pictures to score the finished model on [default: `test` in --data, or the validation part].
    #[arg(long, value_name = "PATH")]
    test: Option<PathBuf>,
    /// Begin with the weights of this model instead of random ones; its sizes are taken over, pictures may have another size
    /// and other labels.
    #[arg(long, value_name = "FOLDER")]
    start: Option<PathBuf>,
    /// Column of a table that holds paths or bytes of pictures [default: inferred].
    #[arg(long, value_name = "NAME")]
    picture_column: Option<String>,
    /// Column of a table that holds the labels [default: inferred].
    #[arg(long, value_name = "NAME")]
    label_column: Option<String>,
    /// TOML file of settings.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// One setting, over the file's; `--set help=` lists all.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Fit the number of epochs to this many minutes on this machine.
    #[arg(long, value_name = "N")]
    minutes: Option<f64>,
    /// Continue the run that was interrupted in --out; it ends as if it had never been.
    #[arg(long)]
    resume: bool,
    /// Seed of data order, augmentation, dropout and initial weights.
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Where to compute.
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    device: String,
    /// What matrix products are computed with; `regard bench` measures both.
    #[arg(long, value_enum, default_value = "auto", value_name = "PRECISION")]
    precision: PrecisionChoice,
    /// Do not train the rival that the score stands beside (the same tokenizer without attention).
    #[arg(long)]
    no_rivals: bool,
}

impl Vision {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        check_minutes(self.minutes)?;
        let request = TrainRequest {
            data: self.data,
            validation: self.validation,
            test: self.test,
            out: self.out,
            start: self.start,
            columns: PictureColumns {
                picture: self.picture_column,
                label: self.label_column,
            },
            settings: settings::read(self.config.as_deref(), &self.set)?,
            minutes: self.minutes,
            seed: self.seed,
            resume: self.resume,
            device: self.device,
            precision: self.precision.into(),
            rivals: !self.no_rivals,
        };
        let report = watched(&resume_command(), |progress| {
            image_recognition::train(&request, progress)
        })?;
        print(&summary(&report))?;
        let folder = quoted(&request.out.display().to_string());
        tell(&format!(
            "\nnow try\n  regard predict {folder} picture.jpg\n  regard explain {folder} picture.jpg --out map.png\n  \
             regard inspect {folder}\nand open {folder}/report.html"
        ));
        Ok(())
    }
}
