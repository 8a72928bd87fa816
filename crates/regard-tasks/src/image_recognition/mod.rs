//! Image recognition: a folder of pictures in, a model that names what is on a picture and shows where it looked out.

mod answers;
mod augment;
mod config;
mod draw;
mod evaluate;
mod gallery;
mod learner;
mod maps;
mod plan;
mod report;
mod run;
mod settings;
mod start;
mod train;

pub use answers::{Mistake, PictureMap, Prediction, Scored};
pub use draw::{contact_sheet, overlay};
pub use maps::{MapRequest, Method};
pub use report::map_html;
pub use run::{ImageClassifier, TASK};
pub use settings::Settings;
pub use train::{TrainRequest, train};
