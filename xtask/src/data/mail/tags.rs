//! What could reach a person or a machine becomes a tag.

pub(super) const EMAIL: &str = "<email>";
pub(super) const LINK: &str = "<link>";
pub(super) const NUMBER: &str = "<number>";

/// A run of digits this long may be the number of a telephone, an account or a person; a year or a price is shorter.
const LONG_NUMBER: usize = 7;

/// Longer words are lines, encoded data, identifiers: no words.
const LONGEST_WORD: usize = 40;

/// One line of words; addresses, links and long numbers replaced, decoration dropped.
pub(super) fn replace(text: &str) -> String {
    let clean: String = text
        .chars()
        .map(|c| {
            if c.is_control() || is_invisible(c) {
                ' '
            } else {
                c
            }
        })
        .collect();
    let mut words: Vec<&str> = Vec::new();
    // Neighbouring groups of digits, as in `(555) 123 4567`, are one number.
    let mut group = (0, 0);
    for word in clean.split_whitespace() {
        let digits = word.bytes().filter(u8::is_ascii_digit).count();
        let only_digits = digits > 0
            && word
                .chars()
                .all(|c| c.is_ascii_digit() || "()+-./".contains(c));
        group = if only_digits {
            (group.0 + 1, group.1 + digits)
        } else {
            (0, 0)
        };
        if only_digits && group.1 >= LONG_NUMBER {
            words.truncate(words.len() - (group.0 - 1));
            words.push(NUMBER);
            // What follows right behind belongs to it: one tag stands for all.
            group = (1, group.1);
        } else if let Some(tag) = tag(word, digits) {
            words.push(tag);
        } else if is_word(word) {
            words.push(word);
        }
    }
    words.join(" ")
}

fn tag(word: &str, digits: usize) -> Option<&'static str> {
    let lower = word.to_ascii_lowercase();
    let bare = lower.trim_matches(|c: char| !c.is_alphanumeric());
    if lower.contains("://") || bare.starts_with("www.") || bare.starts_with("mailto:") {
        return Some(if bare.starts_with("mailto:") {
            EMAIL
        } else {
            LINK
        });
    }
    if bare
        .split_once('@')
        .is_some_and(|(name, host)| !name.is_empty() && !host.is_empty())
    {
        return Some(EMAIL);
    }
    if is_host(bare) {
        return Some(LINK);
    }
    (digits >= LONG_NUMBER).then_some(NUMBER)
}

/// `name.ending`, with or without a path behind it.
fn is_host(bare: &str) -> bool {
    const ENDINGS: [&str; 24] = [
        "com", "net", "org", "edu", "gov", "mil", "info", "biz", "ie", "uk", "de", "fr", "it",
        "nl", "ca", "au", "jp", "kr", "cn", "tw", "ru", "br", "us", "tv",
    ];
    let host = bare.split(['/', ':', '?']).next().unwrap_or(bare);
    let Some((name, ending)) = host.rsplit_once('.') else {
        return false;
    };
    let is_name = name.len() > 1
        && name
            .chars()
            .all(|c| c.is_alphanumeric() || c == '-' || c == '.');
    let is_address =
        host.split('.').count() == 4 && host.chars().all(|c| c.is_ascii_digit() || c == '.');
    is_address || (is_name && ENDINGS.contains(&ending))
}

fn is_word(word: &str) -> bool {
    let letters = word.chars().filter(|c| c.is_alphanumeric()).count();
    // `!!!` and `$$$` speak; `-----` and `*****` only draw.
    let speaks =
        letters > 0 || (word.len() <= 3 && word.chars().all(|c| "!?$%&:;)-(<>=+".contains(c)));
    speaks && word.chars().count() <= LONGEST_WORD
}

/// Marks of direction, joiners, soft hyphens and the replacement of what could not be read.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fffd}' | '\u{a0}')
}

#[cfg(test)]
mod tests {
    use super::replace;

    #[test]
    fn addresses_and_links_become_tags() {
        assert_eq!(
            replace("write to <joe@example.org>, now!"),
            "write to <email> now!"
        );
        assert_eq!(
            replace("see http://x.example/y?z (or www.x.com)."),
            "see <link> (or <link>"
        );
        assert_eq!(
            replace("Visit example.com/offer today. OK.Next"),
            "Visit <link> today. OK.Next"
        );
        assert_eq!(
            replace("[mailto:joe@x.org] at 10.0.0.1"),
            "<email> at <link>"
        );
    }

    #[test]
    fn long_numbers_become_one_tag_and_short_ones_stay() {
        assert_eq!(
            replace("call (555) 123-4567 in 2002 for $99"),
            "call <number> in 2002 for $99"
        );
        assert_eq!(replace("call 1 800 555 1234 9 now"), "call <number> now");
        assert_eq!(replace("id AB1234567X, 25 of 100"), "id <number> 25 of 100");
    }

    #[test]
    fn lines_that_only_draw_are_dropped() {
        assert_eq!(
            replace("a ------ b ***** c !!! \u{fffd}\n\nd"),
            "a b c !!! d"
        );
        assert_eq!(replace(&"x".repeat(41)), "");
    }
}
