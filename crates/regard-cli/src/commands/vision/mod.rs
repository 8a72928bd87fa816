//! What the commands do with a model that sees.

mod arguments;
mod evaluate;
mod explain;
mod predict;
mod train;

pub(crate) use arguments::{MapArguments, ScoreArguments};
pub(crate) use evaluate::evaluate;
pub(crate) use explain::{ExplainRequest, explain, shown};
pub(crate) use predict::predict;
pub(crate) use train::Vision;
