//! Scripts without blanks, from right to left, and emoji: through training, decoding, alignment and scores.

use std::fs;

use regard_tasks::Task;
use regard_tasks::sequence_to_sequence::{AttentionPart, PairColumns, Writer, train};
use tempfile::TempDir;

use crate::sequence_to_sequence::request;
use crate::training::Ears;

/// A language: what stands before, between and behind the colour and the thing, and both.
struct Language {
    parts: [&'static str; 3],
    colours: [&'static str; 4],
    things: [&'static str; 6],
    /// What BLEU cuts it with.
    tokenizer: &'static str,
}

const ENGLISH: Language = Language {
    parts: ["this is a ", " ", "."],
    colours: ["red", "green", "white", "black"],
    things: ["house", "cat", "book", "tree", "table", "flower"],
    tokenizer: "13a",
};
const CHINESE: Language = Language {
    parts: ["这是一个", "的", "。"],
    colours: ["红色", "绿色", "白色", "黑色"],
    things: ["房子", "猫", "书", "树", "桌子", "花"],
    tokenizer: "zh",
};
const JAPANESE: Language = Language {
    parts: ["これは", "の", "です。"],
    colours: ["赤い色", "緑色", "白い色", "黒い色"],
    things: ["家", "ネコ", "本", "木", "テーブル", "お花"],
    tokenizer: "char",
};
const ARABIC: Language = Language {
    parts: ["هذا شيء ", " وهو ", "؟"],
    colours: ["أحمر", "أخضر", "أبيض", "أسود"],
    things: ["بيت", "قطة", "كتاب", "شجرة", "طاولة", "زهرة"],
    tokenizer: "13a",
};
const EMOJI: Language = Language {
    parts: ["👉 ", " + ", " 👨‍👩‍👧"],
    colours: ["🟥", "🟩", "⬜", "⬛"],
    things: ["🏠", "🐈", "📖", "🌳", "🪑", "🌸"],
    tokenizer: "13a",
};

impl Language {
    fn sentence(&self, colour: usize, thing: usize) -> String {
        let [before, between, behind] = self.parts;
        let (colour, thing) = (self.colours[colour], self.things[thing]);
        format!("{before}{colour}{between}{thing}{behind}")
    }
}

#[test]
fn every_script_is_read_written_aligned_and_scored() {
    for (source, target) in [
        (&ENGLISH, &CHINESE),
        (&JAPANESE, &ENGLISH),
        (&ENGLISH, &JAPANESE),
        (&ARABIC, &EMOJI),
        (&EMOJI, &ARABIC),
    ] {
        let folder = TempDir::new().unwrap();
        let mut table = String::from("source\ttarget\n");
        for row in 0..800 {
            let (colour, thing) = (row % 4, row / 4 % 6);
            table += &format!(
                "{}\t{}\n",
                source.sentence(colour, thing),
                target.sentence(colour, thing)
            );
        }
        let mut request = request(folder.path(), &table, "model");
        // All sentences are known: a test of the way of the letters, not of the model.
        request.settings.epochs = Some(6);
        request.validation = Some(request.data.clone());
        let (data, columns) = (request.data.clone(), PairColumns::default());
        train(&request, &mut Ears::default()).unwrap();
        let model = Writer::open(&request.out).unwrap();
        let asked = source.sentence(2, 1);
        let answer = model.run(std::slice::from_ref(&asked)).unwrap().remove(0);
        assert_eq!(answer.text, target.sentence(2, 1));
        let scored = model.evaluate(&data, &columns).unwrap();
        let bleu = &scored.scores[0];
        assert!(bleu.interval.value > 99.0, "{asked}: {bleu:?}");
        assert!(
            bleu.signature
                .contains(&format!("tok:{}|", target.tokenizer)),
            "{}",
            bleu.signature
        );

        let looked = model
            .explain(&asked, None, &AttentionPart::default())
            .unwrap();
        let texts = [
            (&looked.source, &looked.source_words),
            (&looked.target, &looked.target_words),
        ];
        for (text, words) in texts {
            let joined: String = words.iter().map(|word| word.text.as_str()).collect();
            assert_eq!(joined, text.replace(' ', ""), "no letter is lost");
            assert!(
                words
                    .iter()
                    .all(|word| text[word.start..word.end] == word.text)
            );
        }
        assert!(!looked.links.is_empty());
        assert!(looked.html().contains("dir=\"auto\""));
        let json = serde_json::to_string(&answer).unwrap();
        assert!(json.contains(&target.sentence(2, 1)), "{json}");
    }
}

#[test]
fn pairs_come_from_two_packed_text_files_as_well() {
    use std::io::Write;
    let folder = TempDir::new().unwrap();
    let packed = |name: &str, language: &Language| {
        let path = folder.path().join(name);
        let mut file = flate2::write::GzEncoder::new(
            fs::File::create(&path).unwrap(),
            flate2::Compression::fast(),
        );
        for row in 0..200 {
            writeln!(file, "{}", language.sentence(row % 4, row / 4 % 6)).unwrap();
        }
        file.finish().unwrap();
        path
    };
    let mut request = request(folder.path(), "source\ttarget\na\tb\n", "model");
    request.data = regard_tasks::sequence_to_sequence::PairFiles::Lines {
        source: packed("a.en.gz", &ENGLISH),
        target: packed("a.zh.gz", &CHINESE),
    };
    request.settings.epochs = Some(1);
    let report = train(&request, &mut Ears::default()).unwrap();
    assert_eq!(report.train_pairs + report.validation_pairs, 200);
    assert_eq!(
        (report.source_column.as_str(), report.files[1].name.as_str()),
        ("a.en.gz", "a.zh.gz")
    );
    let scored = Writer::open(&request.out)
        .unwrap()
        .evaluate(&request.data, &PairColumns::default());
    assert_eq!(scored.unwrap().pairs, 200);
}
