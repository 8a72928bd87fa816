use std::path::PathBuf;

use clap::{Args, ValueEnum};
use regard_tasks::image_recognition::{self, MapRequest};

/// How a map over a picture is made, and where it goes.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Pictures")]
pub(crate) struct MapArguments {
    /// Write the map over the picture, as a PNG.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// How the map is made [default: gradient].
    #[arg(long, value_enum, value_name = "METHOD")]
    method: Option<Method>,
    /// The label whose reasons are shown [default: the most probable one].
    #[arg(long, value_name = "LABEL")]
    class: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Method {
    /// Attention × gradient: what spoke for the label
    Gradient,
    /// Attention of all layers multiplied
    Rollout,
    /// The weights of one layer or head, or of the summary at the end
    Attention,
}

impl MapArguments {
    pub(crate) fn said(&self) -> [(&'static str, bool); 3] {
        [
            ("--out", self.out.is_some()),
            ("--method", self.method.is_some()),
            ("--class", self.class.is_some()),
        ]
    }

    /// What the model is asked for; a layer or head without a method means its attention.
    pub(crate) fn request(&self, layer: Option<usize>, head: Option<usize>) -> MapRequest {
        let method = match self.method {
            Some(Method::Gradient) => image_recognition::Method::Gradient,
            Some(Method::Rollout) => image_recognition::Method::Rollout,
            Some(Method::Attention) => image_recognition::Method::Attention,
            None if layer.is_some() || head.is_some() => image_recognition::Method::Attention,
            None => image_recognition::Method::default(),
        };
        MapRequest {
            method,
            label: self.class.clone(),
            layer,
            head,
        }
    }
}

/// What scoring on pictures is asked for.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Pictures")]
pub(crate) struct ScoreArguments {
    /// Column of a table that holds paths or bytes of pictures [default: inferred].
    #[arg(long, value_name = "NAME")]
    pub(crate) picture_column: Option<String>,
    /// Write the mistakes of which the model was surest side by side, as a PNG.
    #[arg(long, value_name = "FILE")]
    pub(crate) sheet: Option<PathBuf>,
}

impl ScoreArguments {
    pub(crate) fn said(&self) -> [(&'static str, bool); 2] {
        [
            ("--picture-column", self.picture_column.is_some()),
            ("--sheet", self.sheet.is_some()),
        ]
    }
}
