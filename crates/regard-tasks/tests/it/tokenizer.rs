//! Tokenizers: every script, the bytes it came from, and the same result every time.

use proptest::prelude::*;
use regard_nn::Noise;
use regard_tasks::tokenizer::{DroppingMerges, Encoded, Pieces, TextTokenizer, TokenizerSettings};

const TEXTS: [&str; 8] = [
    "The cat sat on the mat; the cat's mat isn't big. Cats like mats!",
    "A Python3 library for x86 and x86-64: fast, small. See https://example.org/index.html?q=1",
    "今天天气很好,我们去公园玩。今天我们不去学校。",
    "天气预报说明天下雨,所以我们明天不去公园。",
    "القطة جلست على السجادة. القطة تحب السجادة الكبيرة",
    "Γειά σου Κόσμε! ДОБРЫЙ ДЕНЬ мир мир день",
    "Good 👍🏽 work 👩‍👩‍👧 from 🇨🇳 and 🇫🇷 ❤️ ❤️ 👍🏽",
    "コンピュータで日本語を書く。コンピュータは便利です。 ภาษาไทย ไทย",
];

const ALL: [Pieces; 3] = [Pieces::Words, Pieces::Bpe, Pieces::Unigram];

fn train(pieces: Pieces, texts: &[&str]) -> TextTokenizer {
    let settings = TokenizerSettings {
        pieces,
        vocabulary: 400,
        lowercase: true,
    };
    TextTokenizer::train(texts.iter().copied(), &settings).unwrap()
}

/// What each piece covers, `_` where it is unknown.
fn cut<'a>(encoded: &Encoded, text: &'a str) -> Vec<&'a str> {
    encoded
        .spans
        .iter()
        .map(|(start, end)| &text[*start..*end])
        .collect()
}

#[test]
fn words_numbers_and_marks_are_words() {
    let tokenizer = train(Pieces::Words, &TEXTS);
    let cut = |text: &'static str| cut(&tokenizer.encode(text).unwrap(), text);
    assert_eq!(
        cut("The cat's mat, x86!"),
        ["The", "cat", "'s", "mat", ",", "x86", "!"]
    );
    assert_eq!(
        cut("isn't it 3.14?"),
        ["isn", "'t", "it", "3", ".", "14", "?"]
    );
    assert_eq!(cut("l'été des 'so"), ["l", "'", "été", "des", "'", "so"]);
    assert_eq!(
        cut("-----\n>>> a_b\t== \u{200B}\u{7}"),
        ["-----", ">>>", "a_b", "=="]
    );
}

#[test]
fn chinese_is_cut_character_by_character_and_katakana_word_by_word() {
    let tokenizer = train(Pieces::Words, &TEXTS);
    let cut = |text: &'static str| cut(&tokenizer.encode(text).unwrap(), text);
    assert_eq!(
        cut("今天天气很好。"),
        ["今", "天", "天", "气", "很", "好", "。"]
    );
    assert_eq!(
        cut("コンピュータで書く"),
        ["コンピュータ", "で", "書", "く"]
    );
    assert_eq!(cut("القطة تحب"), ["القطة", "تحب"]);
    assert_eq!(cut("👍🏽🇨🇳👩‍👩‍👧 ❤️"), ["👍🏽", "🇨🇳", "👩‍👩‍👧", "❤️"]);
}

#[test]
fn what_occurs_twice_is_known_and_what_occurs_once_is_not() {
    let tokenizer = train(Pieces::Words, &["alpha beta alpha", "beta gamma alpha"]);
    let ids = |text| tokenizer.encode(text).unwrap().ids;
    assert_eq!(ids("alpha beta gamma delta"), [2, 3, 1, 1]);
    assert_eq!(tokenizer.vocabulary(), 4);
    assert_eq!(
        train(Pieces::Words, &["one two"])
            .encode("two")
            .unwrap()
            .ids,
        [3]
    );
}

#[test]
fn capitals_are_folded_if_asked() {
    let folded = train(Pieces::Words, &TEXTS);
    assert_eq!(
        folded.encode("CATS Мир").unwrap().ids,
        folded.encode("cats мир").unwrap().ids
    );
    let settings = TokenizerSettings {
        pieces: Pieces::Words,
        vocabulary: 400,
        lowercase: false,
    };
    let exact = TextTokenizer::train(["Cat cat Cat cat"].into_iter(), &settings).unwrap();
    assert_ne!(
        exact.encode("Cat").unwrap().ids,
        exact.encode("cat").unwrap().ids
    );
}

#[test]
fn spans_are_bytes_of_the_text_as_it_was_given() {
    for pieces in ALL {
        let tokenizer = train(pieces, &TEXTS);
        // Full-width letters, a ligature, a letter whose small form is two, an accent of its own.
        let text = "ＴＨＥ caﬁ İstanbul e\u{301}t ㎏ ½ 今天 🇨🇳";
        let encoded = tokenizer.encode(text).unwrap();
        let covered: String = cut(&encoded, text).concat();
        assert!(covered.starts_with("ＴＨＥca"), "{covered}");
        assert!(
            encoded
                .spans
                .iter()
                .all(|(start, end)| start < end && text.get(*start..*end).is_some())
        );
        // An accent that melts into its letter lies within the word, if not within a piece.
        for (start, letter) in text
            .char_indices()
            .filter(|(_, letter)| !letter.is_whitespace() && *letter != '\u{301}')
        {
            let covers =
                |(from, to): &(usize, usize)| *from <= start && start + letter.len_utf8() <= *to;
            assert!(encoded.spans.iter().any(covers), "{pieces:?} lost {letter}");
        }
    }
    let words = train(Pieces::Words, &TEXTS).encode("ＴＨＥ  cat").unwrap();
    assert_eq!(words.spans, [(0, 9), (11, 14)]);
}

#[test]
fn pieces_of_a_word_know_their_word_and_every_chinese_piece_is_one() {
    for pieces in [Pieces::Bpe, Pieces::Unigram] {
        let tokenizer = train(pieces, &TEXTS);
        let text = "zzcatzz 公园";
        let encoded = tokenizer.encode(text).unwrap();
        assert!(encoded.ids.len() > 3, "{pieces:?}");
        for (span, word) in encoded.spans.iter().zip(&encoded.words) {
            assert_eq!(span.1 <= 7, *word == 0, "{pieces:?} {encoded:?}");
        }
        assert!(encoded.words.is_sorted());
        let runs = encoded.words.chunk_by(|a, b| a == b).count();
        assert_eq!(runs as u32, encoded.words.last().unwrap() + 1);
    }
    let bpe = train(Pieces::Bpe, &TEXTS);
    let text = "今天";
    assert_eq!(
        cut(&bpe.encode(text).unwrap(), text),
        ["今天"],
        "pairs that often stand together are one piece"
    );
}

#[test]
fn the_same_texts_give_the_same_tokenizer_whatever_the_order_and_the_threads() {
    // Enough different letters that some are lost on the way to a small vocabulary.
    let mut texts: Vec<String> = TEXTS.iter().map(ToString::to_string).collect();
    texts.extend((0..600).map(|at| {
        let letter = |step: usize| {
            char::from_u32(0x4E00 + ((at * 37 + step * step * 11) % 900) as u32).unwrap()
        };
        format!(
            "{}{}{} word{} prefix{}suffix re{}ing",
            letter(1),
            letter(2),
            letter(3),
            at % 50,
            at % 7,
            at % 90
        )
    }));
    let strs: Vec<&str> = texts.iter().map(String::as_str).collect();
    let turned: Vec<&str> = strs.iter().rev().copied().collect();
    for pieces in ALL {
        for vocabulary in [60, 1500] {
            let settings = TokenizerSettings {
                pieces,
                vocabulary,
                lowercase: true,
            };
            let json = |texts: &[&str], threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap();
                pool.install(|| {
                    TextTokenizer::train(texts.iter().copied(), &settings)
                        .unwrap()
                        .to_json()
                        .unwrap()
                })
            };
            let first = json(&strs, 1);
            for round in 0..4 {
                assert_eq!(
                    first,
                    json(if round % 2 == 0 { &turned } else { &strs }, round + 1),
                    "{pieces:?} {vocabulary}"
                );
            }
            let tokenizer = TextTokenizer::from_json(first.as_bytes()).unwrap();
            assert!(
                tokenizer.vocabulary() <= vocabulary,
                "{pieces:?}: {}",
                tokenizer.vocabulary()
            );
            assert_eq!(tokenizer.to_json().unwrap(), first);
        }
    }
}

#[test]
fn padding_and_unknown_are_never_found_in_a_text() {
    for pieces in ALL {
        let tokenizer = train(pieces, &[&TEXTS[..], &["[PAD] [UNK] [PAD] [UNK]"]].concat());
        let encoded = tokenizer.encode("[PAD] [UNK] pad unk").unwrap();
        assert!(!encoded.ids.contains(&0), "{pieces:?}");
        assert!(
            encoded.ids.len() >= 8,
            "{pieces:?}: brackets are marks like any other"
        );
    }
}

#[test]
fn many_texts_come_back_in_order() {
    let tokenizer = train(Pieces::Bpe, &TEXTS);
    let texts: Vec<String> = (0..500).map(|at| format!("the cat {at}")).collect();
    let strs: Vec<&str> = texts.iter().map(String::as_str).collect();
    let all = tokenizer.encode_all(&strs).unwrap();
    assert!(
        strs.iter()
            .zip(all)
            .all(|(text, encoded)| encoded == tokenizer.encode(text).unwrap())
    );
}

#[test]
fn a_text_of_megabytes_is_cut_like_a_short_one() {
    for pieces in ALL {
        let tokenizer = train(pieces, &TEXTS);
        let once = tokenizer.encode("the cat 今天 ").unwrap();
        let text = "the cat 今天 ".repeat(80_000);
        let encoded = tokenizer.encode(&text).unwrap();
        assert_eq!(encoded.ids, once.ids.repeat(80_000));
        assert_eq!(encoded.words.len(), encoded.ids.len());
        assert_eq!(
            *encoded.words.last().unwrap() as usize + 1,
            (once.words.last().unwrap() + 1) as usize * 80_000
        );
        assert_eq!(encoded.spans.last().unwrap().1, text.len() - 1);
        // No white space to cut at.
        let one_word = "ß".repeat(700_000);
        assert!(!tokenizer.encode(&one_word).unwrap().ids.is_empty());
        let tokenizer = train(pieces, &[&one_word, &one_word, "a b a b"]);
        assert!(tokenizer.vocabulary() > 2);
    }
}

#[test]
fn space_alone_has_no_pieces_and_no_words_teach_nothing() {
    for pieces in ALL {
        assert_eq!(
            train(pieces, &TEXTS).encode(" \n\t\u{3000}").unwrap(),
            Encoded::default()
        );
        for texts in [&[][..], &[" \n", ""][..]] {
            let settings = TokenizerSettings {
                pieces,
                vocabulary: 400,
                lowercase: true,
            };
            let message = TextTokenizer::train(texts.iter().copied(), &settings)
                .unwrap_err()
                .to_string();
            assert!(message.starts_with("tokenizer: no word in"), "{message}");
        }
        let tiny = TokenizerSettings {
            pieces,
            vocabulary: 3,
            lowercase: true,
        };
        let message = TextTokenizer::train(TEXTS.into_iter(), &tiny)
            .unwrap_err()
            .to_string();
        assert_eq!(message, "setting `vocabulary` is 3, expected at least 16");
    }
}

/// The tokenizer's file with one thing changed.
fn altered(pieces: Pieces, change: impl Fn(&mut serde_json::Value)) -> String {
    let json = train(pieces, &TEXTS).to_json().unwrap();
    let mut json = serde_json::from_str(&json).unwrap();
    change(&mut json);
    match TextTokenizer::from_json(json.to_string().as_bytes()) {
        Ok(_) => "accepted".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_tokenizer_that_is_not_ours_is_refused() {
    use serde_json::json;
    for pieces in ALL {
        assert_eq!(altered(pieces, |_| {}), "accepted");
        let slow = json!({ "type": "Split", "pattern": { "Regex": "(a+)+$" }, "behavior": "Removed", "invert": true });
        assert!(
            altered(pieces, |json| json["pre_tokenizer"] = slow.clone())
                .contains("`pre_tokenizer` is not what Regard writes")
        );
        assert!(
            altered(pieces, |json| json["normalizer"] = json!(null))
                .contains("`normalizer` is not")
        );
        assert!(
            altered(pieces, |json| json["added_tokens"] = json!([{ "id": 0 }]))
                .contains("`added_tokens` is not")
        );
        assert!(altered(pieces, |json| json["extra"] = json!(1)).contains("`extra` is not a part"));
        assert!(
            altered(pieces, |json| json["model"]["vocab"] = json!(7))
                .contains("`model.vocab` is missing")
        );
        assert!(
            altered(pieces, |json| json["model"]["type"] = json!("WordPiece"))
                .contains("expected WordLevel, BPE or Unigram")
        );
    }
    let special = "does not begin with [PAD] = 0 and [UNK] = 1";
    assert!(
        altered(Pieces::Words, |json| json["model"]["vocab"] =
            json!({ "a": 0, "b": 1 }))
        .contains(special)
    );
    assert!(
        altered(Pieces::Words, |json| json["model"]["vocab"]["cat"] =
            json!(4_000_000_000_u32))
        .contains("`cat` = 4000000000")
    );
    assert!(
        altered(Pieces::Words, |json| json["model"]["vocab"]["cat"] =
            json!(0))
        .contains("once")
    );
    assert!(
        altered(Pieces::Bpe, |json| json["model"]["dropout"] = json!(0.5))
            .contains("`model` is not")
    );
    assert!(
        altered(Pieces::Bpe, |json| json["model"]["merges"] =
            json!([["qq", "zz"]]))
        .contains("cannot be read")
    );
    assert!(
        altered(Pieces::Unigram, |json| json["model"]["vocab"][5] =
            json!(["x", 3.0]))
        .contains("logarithm")
    );
    assert!(
        altered(Pieces::Unigram, |json| json["model"]["vocab"][5][0] =
            json!("[PAD]"))
        .contains("twice")
    );
    for bytes in [
        &b""[..],
        b"{}",
        b"[1]",
        b"null",
        b"\xFF",
        "[".repeat(1_000_000).as_bytes(),
    ] {
        TextTokenizer::from_json(bytes).unwrap_err();
    }
    let message = TextTokenizer::from_json(&vec![b' '; 65 << 20])
        .unwrap_err()
        .to_string();
    assert!(message.contains("expected at most"), "{message}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn any_texts_can_be_learned_from_and_any_text_cut(
        texts in proptest::collection::vec(any::<String>(), 1..12), text: String, vocabulary in 16_usize..200,
    ) {
        for pieces in ALL {
            let settings = TokenizerSettings { pieces, vocabulary, lowercase: true };
            let Ok(tokenizer) = TextTokenizer::train(texts.iter().map(String::as_str), &settings) else { continue };
            prop_assert!(tokenizer.vocabulary() <= vocabulary);
            for text in texts.iter().chain([&text]) {
                let encoded = tokenizer.encode(text).unwrap();
                prop_assert!(encoded.ids.iter().all(|id| *id != 0 && (*id as usize) < tokenizer.vocabulary()));
                prop_assert!(encoded.spans.iter().all(|(start, end)| start <= end && text.get(*start..*end).is_some()));
                prop_assert!(encoded.words.is_sorted() && encoded.words.len() == encoded.ids.len());
            }
        }
    }
}

#[test]
fn merges_that_are_left_out_cut_the_same_text_otherwise_and_lose_nothing() {
    let settings = TokenizerSettings {
        pieces: Pieces::Bytes,
        vocabulary: 500,
        lowercase: false,
    };
    let tokenizer = TextTokenizer::train(TEXTS.iter().copied(), &settings).unwrap();
    let merges = DroppingMerges::new(&tokenizer).unwrap();
    let long = format!(" {}", "mat".repeat(500));
    let mut longer = 0;
    for (row, text) in TEXTS.into_iter().chain(["", "  ", &long]).enumerate() {
        let noise = || Noise::at(1, row as u64);
        let usual = tokenizer.encode(text).unwrap().ids;
        let all = merges.encode(text, 0.0, &mut noise()).unwrap();
        // A word of more than 64 bytes is cut into parts of so many.
        if row < TEXTS.len() {
            assert_eq!(all, usual, "{text}");
        }
        let some = merges.encode(text, 0.3, &mut noise()).unwrap();
        assert_eq!(some, merges.encode(text, 0.3, &mut noise()).unwrap());
        assert_eq!(
            tokenizer.decode(&some).unwrap(),
            tokenizer.decode(&usual).unwrap()
        );
        longer += usize::from(some.len() > usual.len());
    }
    assert!(longer > TEXTS.len() / 2, "{longer}");
    let words = train(Pieces::Words, &TEXTS);
    let error = DroppingMerges::new(&words).unwrap_err().to_string();
    assert!(error.contains("byte pairs"), "{error}");
}
