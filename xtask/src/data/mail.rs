//! From a raw e-mail to the words its reader saw.
//!
//! Headers go, for server names give the label away. What the body encodes is decoded (quoted-printable,
//! base64, HTML), attachments go, and what could reach a person becomes a tag: `<email>`, `<link>`, `<number>`.

mod html;
mod tags;
mod transfer;

/// Parts inside parts are read down to this depth; real mail has two or three.
const DEEPEST: usize = 8;

/// The text of a raw mail on one line; empty if it has none.
pub(crate) fn readable(raw: &str) -> String {
    let raw = raw.replace("\r\n", "\n");
    // Some mails of the corpus start with the envelope line `From sender date`, which is no header.
    let raw = if raw.starts_with("From ") {
        raw.split_once('\n').map_or("", |(_, rest)| rest)
    } else {
        &raw
    };
    tags::replace(&text(raw, DEEPEST))
}

/// The text of an entity: a mail, or one part of a mail.
fn text(entity: &str, depth: usize) -> String {
    let (head, body) = match entity.strip_prefix('\n') {
        Some(body) => ("", body),
        None => entity.split_once("\n\n").unwrap_or((entity, "")),
    };
    let content = header(head, "content-type").unwrap_or_else(|| "text/plain".to_owned());
    let kind = content.to_ascii_lowercase();
    if kind.starts_with("multipart/")
        && depth > 0
        && let Some(boundary) = parameter(&content, "boundary")
    {
        let texts: Vec<String> = parts(body, &boundary)
            .into_iter()
            .map(|part| text(part, depth - 1))
            .filter(|text| !text.trim().is_empty())
            .collect();
        // Alternatives say the same twice; the first is the plain one.
        return if kind.starts_with("multipart/alternative") {
            texts.into_iter().next().unwrap_or_default()
        } else {
            texts.join("\n")
        };
    }
    if kind.starts_with("message/") && depth > 0 {
        return text(body, depth - 1);
    }
    if kind.contains('/') && !kind.starts_with("text") && !kind.starts_with("multipart/") {
        return String::new();
    }
    let body = match header(head, "content-transfer-encoding")
        .map(|value| value.trim().to_ascii_lowercase())
        .as_deref()
    {
        Some("quoted-printable") => transfer::quoted_printable(body),
        Some("base64") => transfer::base64(body),
        _ => body.to_owned(),
    };
    if kind.starts_with("text/html") || html::looks_like(&body) {
        html::strip(&body)
    } else {
        unquoted(&body)
    }
}

/// The value of a header, its continuation lines joined.
fn header(head: &str, name: &str) -> Option<String> {
    let mut lines = head.lines();
    let is_it = |line: &&str| {
        line.split_once(':')
            .is_some_and(|(found, _)| found.eq_ignore_ascii_case(name))
    };
    let first = lines.by_ref().find(is_it)?.split_once(':')?.1.trim();
    let more = lines
        .take_while(|line| line.starts_with([' ', '\t']))
        .map(str::trim);
    Some(more.fold(first.to_owned(), |value, line| value + " " + line))
}

/// `name="value"` or `name=value` inside a header; the name in any case.
fn parameter(value: &str, name: &str) -> Option<String> {
    let at = value.to_ascii_lowercase().find(&format!("{name}="))? + name.len() + 1;
    let rest = &value[at..];
    let found = match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?,
        None => rest.split([';', ' ']).next()?,
    };
    (!found.is_empty()).then(|| found.to_owned())
}

/// What stands between the lines `--boundary`; the preamble, and what follows `--boundary--`, go.
fn parts<'a>(body: &'a str, boundary: &str) -> Vec<&'a str> {
    let mark = format!("--{boundary}");
    let mut found = Vec::new();
    let mut start = None;
    let mut at = 0;
    for line in body.split_inclusive('\n') {
        if line.starts_with(&mark) {
            found.extend(start.map(|start| &body[start..at]));
            if line[mark.len()..].starts_with("--") {
                return found;
            }
            start = Some(at + line.len());
        }
        at += line.len();
    }
    found.extend(start.map(|start| &body[start..]));
    found
}

/// Drops the marks `>` in front of quoted lines.
fn unquoted(body: &str) -> String {
    body.lines()
        .map(|line| line.trim_start_matches(['>', ' ', '|']))
        .collect::<Vec<_>>()
        .join("\n")
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn headers_go_and_the_body_stays_on_one_line() {
        let mail = "From a@b.org Thu\nReceived: from x\n\tby y\nSubject: hi\n\nHello\n> quoted words\n\nBye\n";
        assert_eq!(readable(mail), "Hello quoted words Bye");
    }

    #[test]
    fn of_two_alternatives_the_plain_one_is_read_and_attachments_are_not() {
        let mail = "Content-Type: multipart/mixed;\n boundary=\"out\"\n\npreamble\n--out\n\
            Content-Type: multipart/alternative; boundary=in\n\n--in\nContent-Type: text/plain\n\nplain words\n\
            --in\nContent-Type: text/html\n\n<b>plain</b> words\n--in--\n--out\n\
            Content-Type: image/gif\nContent-Transfer-Encoding: base64\n\nR0lGODlh\n--out--\nafter\n";
        assert_eq!(readable(mail), "plain words");
    }

    #[test]
    fn quoted_printable_html_becomes_words() {
        let mail = "Content-Type: text/html\nContent-Transfer-Encoding: quoted-printable\n\n\
            <html><style>p {x}</style><p align=3Dleft>Fr=\nee &amp; easy<br>money</p></html>\n";
        assert_eq!(readable(mail), "Free & easy money");
    }

    #[test]
    fn a_mail_without_a_body_is_empty() {
        assert_eq!(readable("Subject: nothing\n"), "");
        assert_eq!(readable(""), "");
    }
}
