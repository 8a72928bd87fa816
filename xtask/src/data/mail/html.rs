//! HTML to words: tags, comments, styles and scripts go, the commonest entities are resolved.

/// Whether a body that claims to be plain text is HTML after all.
pub(super) fn looks_like(body: &str) -> bool {
    let start = body.get(..2_000).unwrap_or(body).to_ascii_lowercase();
    ["<html", "<body", "<table", "<!doctype html"]
        .iter()
        .any(|tag| start.contains(tag))
}

/// The words between the tags. A tag parts words only where a reader sees a gap: `<br>` does, `<b>` does not.
pub(super) fn strip(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = if rest.starts_with("<!--") {
            rest.find("-->").map(|end| end + 3)
        } else if let Some(name) = ["style", "script", "title"]
            .into_iter()
            .find(|name| opens(rest, name))
        {
            close(rest, name)
        } else if rest[1..]
            .starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '!' || c == '?')
        {
            rest.find('>').map(|end| end + 1)
        } else {
            text.push('<');
            Some(1)
        };
        let end = end.unwrap_or(rest.len());
        if !INLINE
            .iter()
            .any(|name| opens(rest, name) || opens(&rest[..end].replacen('/', "", 1), name))
        {
            text.push(' ');
        }
        rest = &rest[end..];
    }
    text.push_str(rest);
    entities(&text)
}

/// Tags inside a word; spam hides in them (`V<b></b>iagra`), comments likewise.
const INLINE: [&str; 10] = [
    "b", "i", "u", "font", "span", "strong", "em", "a", "big", "!--",
];

/// Whether the text starts with the tag `name`.
fn opens(text: &str, name: &str) -> bool {
    let Some(found) = text.get(1..=name.len()) else {
        return false;
    };
    let after = text[1 + name.len()..].chars().next();
    found.eq_ignore_ascii_case(name)
        && (name == "!--" || after.is_none_or(|c| !c.is_ascii_alphanumeric()))
}

/// The end of the closing tag of `name`.
fn close(text: &str, name: &str) -> Option<usize> {
    let at = text.to_ascii_lowercase().find(&format!("</{name}"))?;
    Some(at + text[at..].find('>')? + 1)
}

fn entities(text: &str) -> String {
    let mut resolved = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        resolved.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        // An entity is short: a `;` far away belongs to something else.
        let end = rest.bytes().take(8).position(|byte| byte == b';');
        match end.and_then(|end| Some((end, entity(&rest[..end])?))) {
            Some((end, letter)) => {
                resolved.push(letter);
                rest = &rest[end + 1..];
            }
            None => resolved.push('&'),
        }
    }
    resolved.push_str(rest);
    resolved
}

fn entity(name: &str) -> Option<char> {
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "nbsp" => ' ',
        "copy" => '©',
        "reg" => '®',
        "eacute" => 'é',
        _ => {
            let number = name.strip_prefix('#')?;
            let value = match number.strip_prefix(['x', 'X']) {
                Some(hexadecimal) => u32::from_str_radix(hexadecimal, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(value)?
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(html: &str) -> String {
        strip(html).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn tags_part_words_only_where_a_reader_sees_a_gap() {
        assert_eq!(
            words("one<br>two<td>three</td>V<b></b>ia<!-- x -->gra"),
            "one two three Viagra"
        );
        assert_eq!(words("<A href=\"x\">click</a>ed"), "clicked");
    }

    #[test]
    fn scripts_styles_and_unfinished_tags_are_no_words() {
        assert_eq!(
            words("<style>p{}</style>a<SCRIPT>if (1 < 2)</script >b <img src="),
            "a b"
        );
        assert_eq!(words("1 < 2 and 3 > 2"), "1 < 2 and 3 > 2");
    }

    #[test]
    fn entities_are_resolved_and_lone_ampersands_stay() {
        assert_eq!(
            words("a&nbsp;b &lt;c&gt; &#100;&#x65; &unknown; R&D"),
            "a b <c> de &unknown; R&D"
        );
    }
}
