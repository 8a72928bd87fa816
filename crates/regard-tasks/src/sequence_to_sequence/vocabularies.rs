//! What cuts the texts: one vocabulary for both sides, or one each.

use rayon::prelude::*;
use regard_nn::Noise;

use super::data::{Pairs, begun, tidy};
use crate::Result;
use crate::bundle::Opened;
use crate::run_folder::RunFolder;
use crate::tokenizer::{DroppingMerges, Encoded, TextTokenizer, TokenizerSettings};

/// The file of the vocabulary of the sources, where they have one of their own.
pub(super) const SOURCE_FILE: &str = "source_tokenizer.json";
/// The file of the only vocabulary, or of that of the targets.
const FILE: &str = "tokenizer.json";

/// Stands for a text of nothing.
const UNKNOWN: u32 = 1;

/// The tokenizers of both sides.
#[derive(Clone, Debug)]
pub(super) struct Vocabularies {
    target: TextTokenizer,
    source: Option<TextTokenizer>,
}

impl Vocabularies {
    /// Learns from the pairs; the settings count for each vocabulary.
    pub(super) fn train(
        pairs: &Pairs,
        settings: &TokenizerSettings,
        separate: bool,
    ) -> Result<Self> {
        let learn = |texts: &mut dyn Iterator<Item = &String>| {
            let begun: Vec<String> = texts.map(|text| begun(text)).collect();
            TextTokenizer::train(begun.iter().map(String::as_str), settings)
        };
        let (mut sources, mut targets) = (pairs.sources.iter(), pairs.targets.iter());
        Ok(match separate {
            true => Self {
                source: Some(learn(&mut sources)?),
                target: learn(&mut targets)?,
            },
            false => Self {
                source: None,
                target: learn(&mut sources.chain(targets))?,
            },
        })
    }

    /// Those of a run under way.
    pub(super) fn of_run(folder: &RunFolder, separate: bool) -> Result<Self> {
        let read = |name: &str| TextTokenizer::from_json(&folder.read_bytes(name)?);
        Ok(Self {
            target: read(FILE)?,
            source: separate.then(|| read(SOURCE_FILE)).transpose()?,
        })
    }

    /// Those of a model folder.
    pub(super) fn of_model(opened: &Opened, separate: bool) -> Result<Self> {
        let source = separate.then(|| opened.another_tokenizer(SOURCE_FILE));
        Ok(Self {
            target: opened.tokenizer()?.clone(),
            source: source.transpose()?,
        })
    }

    /// The files of a model folder or of a run: the first is its `tokenizer.json`.
    pub(super) fn files(&self) -> Result<(String, Option<(String, String)>)> {
        let source = self.source.as_ref().map(TextTokenizer::to_json);
        let named = |json| (SOURCE_FILE.to_owned(), json);
        Ok((self.target.to_json()?, source.transpose()?.map(named)))
    }

    /// Keeps them in the folder of a run.
    pub(super) fn write(&self, folder: &RunFolder) -> Result<()> {
        let (target, source) = self.files()?;
        folder.write_bytes(FILE, target.as_bytes())?;
        match source {
            Some((name, json)) => folder.write_bytes(&name, json.as_bytes()),
            None => Ok(()),
        }
    }

    /// What cuts a source.
    pub(super) fn source(&self) -> &TextTokenizer {
        self.source.as_ref().unwrap_or(&self.target)
    }

    /// What cuts a target, and joins its pieces again.
    pub(super) fn target(&self) -> &TextTokenizer {
        &self.target
    }

    /// Pieces of the sources' own vocabulary, if they have one.
    pub(super) fn own_source_pieces(&self) -> Option<usize> {
        self.source.as_ref().map(TextTokenizer::vocabulary)
    }

    /// The pieces of sources, at least one each.
    pub(super) fn sources(&self, texts: &[String]) -> Result<Vec<Vec<u32>>> {
        pieces(self.source(), texts)
    }

    /// The pieces of targets, at least one each.
    pub(super) fn targets(&self, texts: &[String]) -> Result<Vec<Vec<u32>>> {
        pieces(&self.target, texts)
    }

    /// The text of pieces that a model wrote.
    pub(super) fn text(&self, pieces: &[u32]) -> Result<String> {
        Ok(tidy(&self.target.decode(pieces)?))
    }

    /// What draws other cuts of the same texts, for sources and for targets.
    pub(super) fn dropping(&self) -> Result<[DroppingMerges; 2]> {
        Ok([
            DroppingMerges::new(self.source())?,
            DroppingMerges::new(&self.target)?,
        ])
    }
}

/// The pieces of texts, at least one each.
fn pieces(tokenizer: &TextTokenizer, texts: &[String]) -> Result<Vec<Vec<u32>>> {
    texts
        .par_iter()
        .map(|text| Ok(encoded(tokenizer, text)?.ids))
        .collect()
}

/// A text in pieces, at least one.
pub(super) fn encoded(tokenizer: &TextTokenizer, text: &str) -> Result<Encoded> {
    let mut encoded = tokenizer.encode(&begun(text))?;
    if encoded.ids.is_empty() {
        encoded.ids.push(UNKNOWN);
        encoded.spans.push((0, 0));
        encoded.words.push(0);
    }
    Ok(encoded)
}

/// The pieces of a text as the lots of `noise` cut it, at least one.
pub(super) fn drawn(
    merges: &DroppingMerges,
    text: &str,
    share: f64,
    noise: &mut Noise,
) -> Result<Vec<u32>> {
    let ids = merges.encode(&begun(text), share, noise)?;
    Ok(if ids.is_empty() { vec![UNKNOWN] } else { ids })
}
